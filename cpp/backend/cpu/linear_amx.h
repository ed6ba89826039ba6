// Products with tiles of bf16 numbers, written over the panel layouts (pack_layout.h), a `Simd` type that unpacks and the tile
// registers (amx_tiles.h). Weights of every format become bf16 numbers, what unpack_row gives rounded to the nearest, ties away
// from zero, a piece of K of two panels at a time, and all input rows of the task are multiplied with them. A tile's products
// run over K in steps of 32 in order, so that an element's bits do not depend on how many rows or columns it is computed with.
//
// Bounds: with many rows the tiles, 16 cycles for 16 x 16 x 32 products; with few the unpacking, of 6 weights of 4 bits a
// cycle.
#pragma once

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/linear_amx_unpack.h"

namespace pagoda::cpu {
namespace {

constexpr int kTileWidth = 16;             ///< rows and columns of a tile
constexpr int kPassRows = 2 * kTileWidth;  ///< that are multiplied with two panels at once
/// Blocks of 32 columns in a piece, which is unpacked before it is multiplied: for many rows as many as the first-level cache
/// has room for, for one pass of a few rows as few as hide the latency.
constexpr int64_t kManyBlocks = 18;
constexpr int64_t kFewBlocks = 2;
/// Columns of the longest row that is multiplied without tiles.
constexpr int64_t kMostLoneCols = 16384;

/// Where the tiles of two panels are: block b of panel p at at[p] + b * step.
struct PairTiles {
  const std::byte* at[2];
  int64_t step;
};

/// Up to two tiles of rows times one or two panels, in registers 0 to 3: C of tile t and panel p is 2 t + p. A tile of the
/// input is register 4 + t, of the weights 6 + p.
template <class Tiles>
struct TileProduct {
  const std::byte* x[2];  ///< blocks of the two tiles
  int64_t x_step[2];      ///< bytes from one block to the next
  int rows[2];            ///< of the tiles; 0: there is no second
  int panels;

  void configure() const {
    const auto first = static_cast<uint8_t>(rows[0]), second = static_cast<uint8_t>(rows[1] ? rows[1] : 1);
    Tiles::configure({first, first, second, second, first, second, 16, 16});
  }

  /// Adds the products of `count` blocks, from block `begin` of the input and the first of `weights` on. An input that is
  /// streamed leaves the first-level cache to the weights.
  template <bool kStreamsInput>
  void add(int64_t begin, int64_t count, const PairTiles& weights) const {
    if (rows[1] > 0) {
      panels == 2 ? add_blocks<kStreamsInput, 2, 2>(begin, count, weights)
                  : add_blocks<kStreamsInput, 2, 1>(begin, count, weights);
    } else {
      panels == 2 ? add_blocks<kStreamsInput, 1, 2>(begin, count, weights)
                  : add_blocks<kStreamsInput, 1, 1>(begin, count, weights);
    }
  }

  template <bool kStreamsInput, int kTiles, int kPanels>
  void add_blocks(int64_t begin, int64_t count, const PairTiles& weights) const {
    const std::byte *x0 = x[0] + begin * x_step[0], *x1 = x[1] + begin * x_step[1];
    const std::byte *w0 = weights.at[0], *w1 = weights.at[1];
    for (int64_t b = 0; b < count; ++b) {
      load_input<kStreamsInput, 4>(x0);
      Tiles::template load<6>(w0, 64);
      if constexpr (kPanels == 2) Tiles::template load<7>(w1, 64);
      if constexpr (kTiles == 2) load_input<kStreamsInput, 5>(x1);
      Tiles::template add_product<0, 4, 6>();
      if constexpr (kPanels == 2) Tiles::template add_product<1, 4, 7>();
      if constexpr (kTiles == 2) Tiles::template add_product<2, 5, 6>();
      if constexpr (kTiles == 2 && kPanels == 2) Tiles::template add_product<3, 5, 7>();
      x0 += x_step[0], x1 += x_step[1], w0 += weights.step, w1 += weights.step;
    }
  }
  template <bool kStreams, int kTile>
  [[gnu::always_inline]] static void load_input(const std::byte* from) {
    if constexpr (kStreams) Tiles::template load_streamed<kTile>(from, 64);
    if constexpr (!kStreams) Tiles::template load<kTile>(from, 64);
  }

  void clear() const {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
};

/// The products of one task.
template <class Simd, class Tiles, WeightFormat kFormat>
class SpanProduct {
 public:
  explicit SpanProduct(const SpanArgs& args) : args_(args), num_blocks_((args.cols + 31) / 32) {}

  void run() {
    if (kUnpacks && args_.num_rows == 1 && args_.cols <= kMostLoneCols && !args_.gate) return multiply_row();
    if (args_.num_rows <= kPassRows) {
      for (int64_t panel = 0; panel < args_.num_panels; panel += step()) multiply_few(panel);
    } else {
      multiply_many();
    }
    Tiles::release();
  }

 private:
  static constexpr bool kUnpacks = kFormat != WeightFormat::bf16;

  /// One or two panels, of gates and ups one of each, and blocks [begin, end) of them.
  struct Piece {
    int64_t panel, begin, end;
  };

  int64_t step() const { return args_.gate ? 1 : 2; }
  int panels_from(int64_t panel) const { return args_.gate || args_.num_panels - panel > 1 ? 2 : 1; }
  const std::byte* panel_at(int64_t panel) const { return args_.panels + static_cast<size_t>(panel) * args_.panel_bytes; }
  /// Bytes from the first of two panels to the second.
  size_t apart() const { return args_.gate ? args_.gate->up_offset : args_.panel_bytes; }
  /// Up to `chunk` blocks from `begin` on. What is left of K behind whole blocks of bf16 panels, which are tiles, is by itself.
  Piece piece_from(int64_t panel, int64_t begin, int64_t chunk) const {
    const int64_t whole = kUnpacks ? num_blocks_ : args_.cols / 32;
    if (begin >= whole) return {panel, begin, num_blocks_};
    return {panel, begin, begin + chunk < whole ? begin + chunk : whole};
  }
  bool is_rest(const Piece& piece) const { return !kUnpacks && piece.begin >= args_.cols / 32; }

  void multiply_row() {
    if constexpr (kUnpacks) {
      const FloatMode before = flush_subnormals();  // but not for the bias
      alignas(64) float x[kMostLoneCols];
      for (int64_t b = 0; b < num_blocks_; ++b) Simd::widen_block(args_.x + b * 32, x + b * 32);
      panels_ = 1;
      for (int64_t panel = 0; panel < args_.num_panels; ++panel) {
        column_ = panel * kTileWidth;
        Simd::store(out(0, 0), LoneProduct<Simd, kFormat>::multiply(panel_at(panel), num_blocks_, x), width(0));
      }
      restore_floats(before);
      for (int64_t panel = 0; args_.bias && panel < args_.num_panels; ++panel) {
        column_ = panel * kTileWidth;
        add_bias();
      }
    }
  }

  /// One pass of few rows: their sums stay in registers, and what they are multiplied with is unpacked a chunk before, as a
  /// tile that was only just stored has to reach the cache before it can be loaded.
  void multiply_few(int64_t panel) {
    begin_panels(panel);
    const int64_t chunk = kUnpacks ? kFewBlocks : num_blocks_;
    const auto room = [&](int64_t block) { return room_ + block % (2 * kFewBlocks) * kPairBytes; };
    const TileProduct<Tiles> product = begin_product(0);
    product.clear();
    Piece piece = piece_from(panel, 0, chunk);
    unpack(piece, room(0));
    while (piece.begin < piece.end) {
      const Piece next = piece_from(panel, piece.end, chunk);
      unpack(next, room(next.begin));
      product.template add<false>(piece.begin, piece.end - piece.begin, weights(piece, room(piece.begin)));
      piece = next;
    }
    store(0, product);
    if (args_.bias && !args_.gate) add_bias();
  }

  /// Piece by piece, each in the first-level cache while all rows are multiplied with it. Between the pieces of a panel the
  /// sums are kept.
  void multiply_many() {
    const int64_t chunks = (num_blocks_ + kManyBlocks - 1) / kManyBlocks, chunk = (num_blocks_ + chunks - 1) / chunks;
    Piece piece = piece_from(0, 0, chunk);
    while (piece.panel < args_.num_panels) {
      const bool ends = piece.end == num_blocks_;
      const Piece next = ends ? piece_from(piece.panel + step(), 0, chunk) : piece_from(piece.panel, piece.end, chunk);
      begin_panels(piece.panel);
      unpack(piece, room_);
      for (int64_t row = 0; row < args_.num_rows; row += kPassRows) {
        multiply_rows(row, piece);
        if (!kUnpacks) fetch(next, row);
      }
      if (args_.bias && !args_.gate && ends) add_bias();
      piece = next;
    }
  }

  void begin_panels(int64_t panel) {
    panels_ = panels_from(panel);
    column_ = panel * kTileWidth;
  }

  /// Makes tiles of a piece, if there is one, but for bf16 panels, which are tiles.
  void unpack(const Piece& piece, std::byte* to) {
    if (piece.begin >= piece.end) return;
    const std::byte* panel = panel_at(piece.panel);
    for (int p = 0; p < panels_; ++p, panel += apart(), to += kPairBytes / 2) {
      if (is_rest(piece)) {
        copy_rest(panel, to);
      } else if constexpr (kUnpacks) {
        const size_t ahead = static_cast<size_t>(step()) * args_.panel_bytes;  // to the panel that comes in its place
        BlockUnpacker<Simd, kFormat>::unpack(panel, piece.begin, piece.end, ahead, to);
      }
    }
  }

  /// Fetches the share of a piece of bf16 panels that the pass from `row` on has of all rows.
  void fetch(const Piece& piece, int64_t row) const {
    if (piece.panel >= args_.num_panels || is_rest(piece)) return;
    const int64_t count = piece.end - piece.begin, pass_end = row + kPassRows;
    const int64_t begin = piece.begin + count * row / args_.num_rows;
    const int64_t end = pass_end < args_.num_rows ? piece.begin + count * pass_end / args_.num_rows : piece.end;
    const std::byte* panel = panel_at(piece.panel);
    for (int p = 0; p < panels_from(piece.panel); ++p, panel += apart()) {
      for (int64_t at = begin * (kPairBytes / 2); at < end * (kPairBytes / 2); at += 64) __builtin_prefetch(panel + at, 0, 2);
    }
  }

  /// The last columns of a bf16 panel, with zeros behind them.
  void copy_rest(const std::byte* panel, std::byte* to) const {
    const size_t left = static_cast<size_t>(args_.cols % 32 + 1) / 2 * 64;
    __builtin_memcpy(to, panel + static_cast<size_t>(args_.cols / 32) * (kPairBytes / 2), left);
    __builtin_memset(to + left, 0, kPairBytes / 2 - left);
  }

  /// The tiles of a piece from its first block on: what unpack() has made at `tiles`, or the bf16 panels.
  PairTiles weights(const Piece& piece, const std::byte* tiles) const {
    if (kUnpacks || is_rest(piece)) return {{tiles, tiles + kPairBytes / 2}, kPairBytes};
    const std::byte* first = panel_at(piece.panel) + piece.begin * (kPairBytes / 2);
    return {{first, first + apart()}, kPairBytes / 2};
  }

  /// Up to two tiles of rows from `row` on times a piece.
  void multiply_rows(int64_t row, const Piece& piece) {
    const TileProduct<Tiles> product = begin_product(row);
    const bool ends = piece.end == num_blocks_;
    if (ends && !args_.gate) fetch_output(row);
    if (piece.begin == 0) {
      product.clear();
    } else {
      for_sums(row, product,
               [&]<int kTile>(int64_t first, int, int panel) { Tiles::template load<kTile>(kept(first, panel), 64); });
    }
    product.template add<true>(piece.begin, piece.end - piece.begin, weights(piece, room_));
    if (ends) return store(row, product);
    for_sums(row, product,
             [&]<int kTile>(int64_t first, int, int panel) { Tiles::template store<kTile>(kept(first, panel), 64); });
  }
  /// So that the products' stores need not wait for the lines they go to.
  [[gnu::always_inline]] void fetch_output(int64_t row) const {
    const int64_t left = args_.num_rows - row;
    for (int64_t r = 0; r < (left < kPassRows ? left : kPassRows); ++r) {
      for (int p = 0; p < panels_; ++p) __builtin_prefetch(out(row + r, p), 1);
    }
  }
  /// Sums of a part of K, between its pieces.
  float* kept(int64_t row, int panel) { return kept_ + (row / kTileWidth * 2 + panel) * kTileWidth * kTileWidth; }

  /// With the registers in the shape of the product's tiles, which takes as long as ten products if they were not.
  TileProduct<Tiles> begin_product(int64_t row) {
    TileProduct<Tiles> product;
    product.panels = panels_;
    for (int t = 0; t < 2; ++t) {
      const int64_t first = row + t * kTileWidth, left = args_.num_rows - first;
      product.rows[t] = left <= 0 ? 0 : left < kTileWidth ? static_cast<int>(left) : kTileWidth;
      product.x[t] = reinterpret_cast<const std::byte*>(args_.x + first * num_blocks_ * 32);
      product.x_step[t] = product.rows[t] * int64_t{64};
    }
    if (product.rows[0] != rows_[0] || product.rows[1] != rows_[1]) product.configure();
    rows_[0] = product.rows[0], rows_[1] = product.rows[1];
    return product;
  }

  /// Calls body<C register>(first row, rows, panel) for the sums of a product.
  template <class Body>
  [[gnu::always_inline]] static void for_sums(int64_t row, const TileProduct<Tiles>& product, const Body& body) {
    body.template operator()<0>(row, product.rows[0], 0);
    if (product.panels == 2) body.template operator()<1>(row, product.rows[0], 1);
    if (product.rows[1] == 0) return;
    body.template operator()<2>(row + kTileWidth, product.rows[1], 0);
    if (product.panels == 2) body.template operator()<3>(row + kTileWidth, product.rows[1], 1);
  }

  int width(int panel) const {
    const int64_t left = args_.num_columns - column_ - panel * kTileWidth;
    return left < kTileWidth ? static_cast<int>(left) : kTileWidth;
  }
  float* out(int64_t row, int panel) const { return args_.out + row * args_.out_stride + column_ + panel * kTileWidth; }

  void store(int64_t row, const TileProduct<Tiles>& product) {
    args_.gate ? store_gates(row, product) : store_sums(row, product);
  }

  void store_sums(int64_t row, const TileProduct<Tiles>& product) {
    for_sums(row, product, [&]<int kTile>(int64_t first, int rows, int panel) {
      float* to = out(first, panel);
      const int columns = width(panel);
      if (columns == kTileWidth) return Tiles::template store<kTile>(to, args_.out_stride * int64_t{sizeof(float)});
      Tiles::template store<kTile>(sums_, 64);
      for (int r = 0; r < rows; ++r) {
        Simd::store(to + r * args_.out_stride, Simd::load_part(sums_ + r * kTileWidth, kTileWidth), columns);
      }
    });
  }

  /// The sums of gates and ups as activations. All columns of a panel exist.
  void store_gates(int64_t row, const TileProduct<Tiles>& product) {
    for_sums(row, product, [&]<int kTile>(int64_t first, int, int panel) {
      Tiles::template store<kTile>(gates_[panel] + (first - row) * kTileWidth, 64);
    });
    const int rows = product.rows[0] + product.rows[1];
    for (int r = 0; args_.bias && r < rows; ++r) {
      add_to(gates_[0] + r * kTileWidth, args_.bias + column_);
      add_to(gates_[1] + r * kTileWidth, args_.gate->up_bias + column_);
    }
    args_.gate->how.activate(gates_[0], gates_[0], gates_[1], rows * kTileWidth, args_.gate->how.activation);
    store_rounded(row, product);
  }
  void store_rounded(int64_t row, const TileProduct<Tiles>& product) {
    const int64_t column = args_.gate->column + column_;
    for (int t = 0; t < 2; ++t) {
      const int64_t first = row + t * kTileWidth;
      uint16_t* to = args_.gate->rounded + first * args_.gate->rounded_cols + column / 32 * 32 * product.rows[t] + column % 32;
      const float* from = gates_[0] + t * kTileWidth * kTileWidth;
      for (int r = 0; r < product.rows[t]; ++r)
        Simd::store_bf16(to + r * 32, Simd::load_part(from + r * kTileWidth, kTileWidth));
    }
  }
  static void add_to(float* sums, const float* bias) {
    Simd::store(sums, Simd::add(Simd::load_part(sums, kTileWidth), Simd::load_part(bias, kTileWidth)), kTileWidth);
  }

  void add_bias() {
    for (int p = 0; p < panels_; ++p) {
      const int columns = width(p);
      const auto bias = Simd::load_part(args_.bias + column_ + p * kTileWidth, columns);
      for (int64_t row = 0; row < args_.num_rows; ++row) {
        Simd::store(out(row, p), Simd::add(Simd::load_part(out(row, p), columns), bias), columns);
      }
    }
  }

  const SpanArgs& args_;
  const int64_t num_blocks_;
  int rows_[2] = {-1, -1};  ///< that the registers are configured for
  int panels_ = 0;
  int64_t column_ = 0;  ///< of the span, where the panels begin
  alignas(64) float sums_[kTileWidth * kTileWidth];
  alignas(64) float gates_[2][2 * kTileWidth * kTileWidth];
  alignas(64) float kept_[kMostSpanRows * 2 * kTileWidth];
  alignas(64) std::byte room_[kManyBlocks * kPairBytes];  ///< [blocks][2 panels][16][16][2] bf16
};

template <class Simd, class Tiles, WeightFormat kFormat>
void span_product(const SpanArgs& args) {
  SpanProduct<Simd, Tiles, kFormat>(args).run();
}

template <class Simd, class Tiles, WeightFormat... kFormats>
constexpr void fill_span_kernels(LinearKernels& kernels) {
  ((kernels.span[static_cast<int>(kFormats)] = span_product<Simd, Tiles, kFormats>), ...);
}

/// Lets a table multiply bf16 weights in tiles, and if wished all that are quantised to integers.
template <class Simd, class Tiles>
constexpr LinearKernels with_spans(LinearKernels kernels, bool all) {
  kernels.span_rows = kTileWidth;
  fill_span_kernels<Simd, Tiles, WeightFormat::bf16>(kernels);
  if (all) {
    fill_span_kernels<Simd, Tiles, WeightFormat::q8_0, WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::q5_0,
                      WeightFormat::q5_1, WeightFormat::q2_k, WeightFormat::q3_k, WeightFormat::q4_k, WeightFormat::q5_k,
                      WeightFormat::q6_k, WeightFormat::iq4_nl, WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::int8,
                      WeightFormat::int4>(kernels);
  }
  return kernels;
}

}  // namespace
}  // namespace pagoda::cpu

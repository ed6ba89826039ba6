// Products with tiles of bf16 numbers, written over the panel layouts (pack_layout.h), a `Simd` type that unpacks and the tile
// registers (amx_tiles.h). Weights of every format become bf16 numbers, what unpack_row gives rounded to the nearest, ties away
// from zero, a few blocks of two panels at a time, and all input rows of the task are multiplied with them. A tile's products
// run over K in steps of 32 in order, so that an element's bits do not depend on how many rows or columns it is computed with.
//
// Bounds: with many rows the tiles, 16 cycles for 16 x 16 x 32 products; with few the unpacking, of 6 weights of 4 bits a
// cycle.
#pragma once

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/linear_table.h"

namespace pagoda::cpu {
namespace {

constexpr int kTileWidth = 16;    ///< rows and columns of a tile
constexpr int kPairBytes = 2048;  ///< 32 values of two panels as bf16
/// Blocks of 32 columns that are unpacked before they are multiplied: for many rows as many as the first-level cache has room
/// for beside the input, for one pass of a few rows as few as hide the latency.
constexpr int64_t kManyBlocks = 10;
constexpr int64_t kFewBlocks = 2;
/// Columns of the longest row that is multiplied without tiles.
constexpr int64_t kMostLoneCols = 16384;
/// How far ahead of its use a panel is fetched that is read from end to end.
constexpr size_t kLoneAheadBytes = 4096;

/// What the codes of a format stand for, by the low four or five bits of the lane that they are looked up with.
struct MeaningTable {
  alignas(64) float values[32];
};
constexpr MeaningTable meaning_table(const PanelLayout& layout) {
  MeaningTable table{};
  for (int i = 0; i < 32; ++i) {
    const int code = i & ((1 << (layout.low_bits + layout.high_bits)) - 1);
    table.values[i] = static_cast<float>(layout.codes == CodeKind::iq4     ? kIq4Values[code]
                                         : layout.codes == CodeKind::mxfp4 ? kMxfp4Values[code]
                                                                           : code - layout.bias);
  }
  return table;
}

/// Unpacks blocks of one format.
template <class Simd, WeightFormat kFormat>
struct BlockUnpacker {
  using Kernel = BlockKernel<Simd, kFormat>;
  using Floats = typename Simd::Floats;
  static constexpr PanelLayout kLayout = Kernel::kLayout;
  static constexpr MeaningTable kTable = meaning_table(kLayout);
  /// Codes are looked up where they stand in their plane, or joined from two planes, if they are not too many to look up.
  static constexpr bool kInPlace = kLayout.high_bits == 0 && kLayout.low_bits <= 4;
  static constexpr bool kLooksUp = kLayout.low_bits + kLayout.high_bits <= 5;
  /// Bytes become floats as the mantissa of 1 + code / 2^15, which a scale of 11 bits takes exactly to where it belongs.
  static constexpr bool kByMantissa = kFormat == WeightFormat::q8_0;

  struct Scales {
    Floats scale, offset;
  };
  template <int kGroup>
  [[gnu::always_inline]] static Scales load_scales(const std::byte* at, const typename Kernel::Outer& outer) {
    const Floats scale = Kernel::template load_scale<kGroup>(at, outer);
    if constexpr (kLayout.scales == ScaleKind::single_zero) return {scale, Simd::load_i8(at + 64)};
    if constexpr (Kernel::kHasMin) return {scale, Kernel::template load_min<kGroup>(at, outer)};
    if constexpr (kLooksUp) return {scale, Simd::zero()};
    constexpr float kOne = kByMantissa ? 0x1p15f : 0;  // exact products: f16 times 9 bits, and a power of two
    return {kByMantissa ? Simd::mul(scale, Simd::broadcast(kOne)) : scale,
            Simd::mul(scale, Simd::broadcast(-kOne - float{kLayout.bias}))};
  }

  /// Value 4 kQuad + kByte of each column, rounded once, as unpack_row gives it.
  template <int kQuad, int kByte, class Codes>
  [[gnu::always_inline]] static Floats weight(Codes codes, const Scales& scales) {
    if constexpr (kByMantissa) return Simd::fma(scales.scale, Simd::template byte_mantissa<kByte>(codes), scales.offset);
    if constexpr (!kLooksUp) return Simd::fma(scales.scale, Simd::template byte<kByte>(codes), scales.offset);
    constexpr int kShift = 8 * kByte + (kInPlace ? kQuad / kLayout.low_bits * kLayout.low_bits : 0);
    const Floats value = Simd::template look_up_floats<kInPlace ? 16 : 32>(kTable.values, Simd::template shift<kShift>(codes));
    if constexpr (Kernel::kHasMin) return Simd::fma(scales.scale, value, scales.offset);
    if constexpr (kLayout.scales == ScaleKind::single_zero) {
      return Simd::mul(scales.scale, Simd::fma(Simd::broadcast(-1.0f), scales.offset, value));
    }
    return Simd::mul(scales.scale, value);
  }

  template <int kQuad>
  [[gnu::always_inline]] static auto load_quad(const std::byte* codes) {
    if constexpr (kInPlace) return Simd::load_raw(codes + kQuad % kLayout.low_bits * 64);
    if constexpr (!kInPlace) return Kernel::template load_codes<kQuad>(codes);
  }

  template <int kQuad, int kEnd, class Body>
  [[gnu::always_inline]] static void unpack_floats(const std::byte* codes, const Scales& scales, const Body& body) {
    if constexpr (kQuad < kEnd) {
      const auto quad = load_quad<kQuad>(codes);
      body(4 * kQuad, weight<kQuad, 0>(quad, scales), weight<kQuad, 1>(quad, scales));
      body(4 * kQuad + 2, weight<kQuad, 2>(quad, scales), weight<kQuad, 3>(quad, scales));
      unpack_floats<kQuad + 1, kEnd>(codes, scales, body);
    }
  }

  /// Calls body(first value of a pair, its two weights) for the pairs of a block in order.
  template <class Body>
  [[gnu::always_inline]] static void for_pairs(const std::byte* block, const typename Kernel::Outer& outer, const Body& body) {
    const std::byte* at = block + kLayout.code_bytes();
    constexpr int kQuads = 8 / kLayout.groups;
    unpack_floats<0, kQuads>(block, load_scales<0>(at, outer), body);
    if constexpr (kLayout.groups == 2) unpack_floats<4, 8>(block, load_scales<1>(at, outer), body);
  }

  /// Calls body(b, block, outer fields) for blocks [begin, end) of a panel, and fetches what lies `ahead` bytes behind them.
  template <class Body>
  [[gnu::always_inline]] static void for_blocks(const std::byte* panel, int64_t begin, int64_t end, size_t ahead,
                                                const Body& body) {
    constexpr int64_t kStep = kLayout.outer_bytes() + kLayout.blocks * kLayout.block_bytes();
    for (int64_t b = begin; b < end; ++b) {
      const std::byte* super = panel + b / kLayout.blocks * kStep;
      const std::byte* block = super + kLayout.outer_bytes() + b % kLayout.blocks * kLayout.block_bytes();
      for (int i = 0; i < kLayout.block_bytes(); i += 64) __builtin_prefetch(block + ahead + i);
      typename Kernel::Outer outer{};
      if constexpr (kLayout.outer_bytes() > 0) outer = Kernel::load_outer(super);
      body(b, block, outer);
    }
  }

  /// Blocks [begin, end) of a panel to tiles [16][16][2] kPairBytes apart; fetches those `ahead` bytes behind them.
  static void unpack(const std::byte* panel, int64_t begin, int64_t end, size_t ahead, std::byte* to) {
    for_blocks(panel, begin, end, ahead, [&](int64_t b, const std::byte* block, const typename Kernel::Outer& outer) {
      std::byte* tile = to + (b - begin) * kPairBytes;
      for_pairs(block, outer, [tile](int value, Floats first, Floats second) __attribute__((always_inline)) {
        Simd::store_pairs(tile + 32 * value, first, second);
      });
    });
  }
};

/// One row times a panel without tiles, whose latency it would wait for: the same chains of fused multiply-adds, and so the
/// same bits.
template <class Simd, WeightFormat kFormat>
struct LoneProduct {
  using Floats = typename Simd::Floats;
  using Unpacker = BlockUnpacker<Simd, kFormat>;
  using Outer = typename Unpacker::Kernel::Outer;

  /// Adds the products of the pairs of quads [kQuad, kEnd) of a block.
  template <int kQuad, int kEnd>
  [[gnu::always_inline]] static void add_quads(const std::byte* codes, const typename Unpacker::Scales& scales, const float* x,
                                               Floats& even, Floats& odd) {
    if constexpr (kQuad < kEnd) {
      const auto quad = Unpacker::template load_quad<kQuad>(codes);
      const float* at = x + 4 * kQuad;
      even = Simd::fma(rounded<kQuad, 0>(quad, scales), Simd::broadcast(at[0]), even);
      odd = Simd::fma(rounded<kQuad, 1>(quad, scales), Simd::broadcast(at[1]), odd);
      even = Simd::fma(rounded<kQuad, 2>(quad, scales), Simd::broadcast(at[2]), even);
      odd = Simd::fma(rounded<kQuad, 3>(quad, scales), Simd::broadcast(at[3]), odd);
      add_quads<kQuad + 1, kEnd>(codes, scales, x, even, odd);
    }
  }
  template <int kQuad, int kByte, class Codes>
  [[gnu::always_inline]] static Floats rounded(Codes quad, const typename Unpacker::Scales& scales) {
    return Simd::round_to_bf16(Unpacker::template weight<kQuad, kByte>(quad, scales));
  }

  [[gnu::always_inline]] static Floats add_block(const std::byte* block, const Outer& outer, const float* x, Floats sum) {
    constexpr PanelLayout kLayout = Unpacker::kLayout;
    constexpr int kQuads = 8 / kLayout.groups;
    const std::byte* at = block + kLayout.code_bytes();
    Floats even = Simd::zero(), odd = Simd::zero();
    add_quads<0, kQuads>(block, Unpacker::template load_scales<0>(at, outer), x, even, odd);
    if constexpr (kLayout.groups == 2) add_quads<4, 8>(block, Unpacker::template load_scales<1>(at, outer), x, even, odd);
    return Simd::add(sum, Simd::add(even, odd));
  }

  /// Of a panel with x[num_blocks * 32], bf16 numbers as floats.
  [[gnu::noinline]] static Floats multiply(const std::byte* panel, int64_t num_blocks, const float* x) {
    Floats sum = Simd::zero();
    Unpacker::for_blocks(panel, 0, num_blocks, kLoneAheadBytes,
                         [&](int64_t b, const std::byte* block, const Outer& outer)
                             __attribute__((always_inline)) { sum = add_block(block, outer, x + b * 32, sum); });
    return sum;
  }
};

/// bf16 panels are tiles as they are, but for the last columns of a K that is no multiple of 32.
template <class Simd>
struct BlockUnpacker<Simd, WeightFormat::bf16> {};

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

  /// Adds the products of `count` blocks, from block `begin` of the input and the first of `weights` on.
  void add(int64_t begin, int64_t count, const PairTiles& weights) const {
    if (rows[1] > 0) {
      panels == 2 ? add_blocks<2, 2>(begin, count, weights) : add_blocks<2, 1>(begin, count, weights);
    } else {
      panels == 2 ? add_blocks<1, 2>(begin, count, weights) : add_blocks<1, 1>(begin, count, weights);
    }
  }

  template <int kTiles, int kPanels>
  void add_blocks(int64_t begin, int64_t count, const PairTiles& weights) const {
    const std::byte *x0 = x[0] + begin * x_step[0], *x1 = x[1] + begin * x_step[1];
    const std::byte *w0 = weights.at[0], *w1 = weights.at[1];
    for (int64_t b = 0; b < count; ++b) {
      Tiles::template load<4>(x0, 64);
      Tiles::template load<6>(w0, 64);
      Tiles::template add_product<0, 4, 6>();
      if constexpr (kPanels == 2) {
        Tiles::template load<7>(w1, 64);
        Tiles::template add_product<1, 4, 7>();
      }
      if constexpr (kTiles == 2) {
        Tiles::template load<5>(x1, 64);
        Tiles::template add_product<2, 5, 6>();
        if constexpr (kPanels == 2) Tiles::template add_product<3, 5, 7>();
      }
      x0 += x_step[0], x1 += x_step[1], w0 += weights.step, w1 += weights.step;
    }
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
  explicit SpanProduct(const SpanArgs& args)
      : args_(args), num_blocks_((args.cols + 31) / 32), few_(args.num_rows <= 2 * kTileWidth) {}

  void run() {
    if (kUnpacks && args_.num_rows == 1 && args_.cols <= kMostLoneCols && !args_.gate) return multiply_row();
    for (int64_t panel = 0; panel < args_.num_panels; panel += args_.gate ? 1 : 2) multiply_panels(panel);
    Tiles::release();
  }

 private:
  static constexpr bool kUnpacks = kFormat != WeightFormat::bf16;

  void multiply_row() {
    if constexpr (kUnpacks) {
      const FloatMode before = flush_subnormals();  // but not for the bias
      alignas(64) float x[kMostLoneCols];
      for (int64_t b = 0; b < num_blocks_; ++b) Simd::widen_block(args_.x + b * 32, x + b * 32);
      for (int64_t panel = 0; panel < args_.num_panels; ++panel) {
        column_ = panel * kTileWidth;
        const std::byte* at = args_.panels + static_cast<size_t>(panel) * args_.panel_bytes;
        Simd::store(out(0, 0), LoneProduct<Simd, kFormat>::multiply(at, num_blocks_, x), width(0));
      }
      restore_floats(before);
      panels_ = 1;
      for (int64_t panel = 0; args_.bias && panel < args_.num_panels; ++panel) {
        column_ = panel * kTileWidth;
        add_bias();
      }
    }
  }

  /// All rows times one or two panels.
  void multiply_panels(int64_t panel) {
    panels_ = args_.gate || args_.num_panels - panel > 1 ? 2 : 1;
    apart_ = args_.gate ? args_.gate->up_offset : args_.panel_bytes;
    panel_ = args_.panels + static_cast<size_t>(panel) * args_.panel_bytes;
    column_ = panel * kTileWidth;
    // Few rows keep their sums in registers, and what they are multiplied with is unpacked a chunk before: a tile that was only
    // just stored has to reach the cache before it can be loaded.
    const int64_t chunk = !kUnpacks ? num_blocks_ : few_ ? kFewBlocks : many_blocks();
    if (few_) unpack(0, chunk);
    for (int64_t begin = 0; begin < num_blocks_; begin += chunk) {
      if (!few_) unpack(begin, begin + chunk);
      if (few_) unpack(begin + chunk, begin + 2 * chunk);
      for (int64_t row = 0; row < args_.num_rows; row += 2 * kTileWidth) multiply_rows(row, begin, begin + chunk);
    }
    if (args_.bias && !args_.gate) add_bias();
  }

  /// kManyBlocks or a little fewer, so that all chunks are about as long.
  int64_t many_blocks() const {
    const int64_t chunks = (num_blocks_ + kManyBlocks - 1) / kManyBlocks;
    return (num_blocks_ + chunks - 1) / chunks;
  }
  int64_t clip(int64_t block) const { return block < num_blocks_ ? block : num_blocks_; }
  /// A chunk of many blocks begins at 0, those of few take turns.
  std::byte* tiles(int64_t block) { return tiles_ + (few_ ? block % (2 * kFewBlocks) * kPairBytes : 0); }

  /// Blocks [begin, end), as far as there are, to tiles().
  void unpack(int64_t begin, int64_t end) {
    if constexpr (kUnpacks) {
      const size_t ahead = args_.gate ? args_.panel_bytes : 2 * args_.panel_bytes;  // to the panel that comes in its place
      for (int p = 0; p < panels_ && begin < num_blocks_; ++p) {
        const std::byte* panel = panel_ + static_cast<size_t>(p) * apart_;
        BlockUnpacker<Simd, kFormat>::unpack(panel, begin, clip(end), ahead, tiles(begin) + p * (kPairBytes / 2));
      }
    } else if (begin == 0) {
      copy_last_block();
    }
  }

  /// Up to two tiles of rows from `row` on times blocks [begin, end), as far as there are.
  void multiply_rows(int64_t row, int64_t begin, int64_t end) {
    const TileProduct<Tiles> product = make_product(row);
    configure(product);
    if (begin == 0) {
      product.clear();
    } else if (!few_) {
      load_sums(row, product);
    }
    if constexpr (kUnpacks) {
      product.add(begin, clip(end) - begin, {{tiles(begin), tiles(begin) + kPairBytes / 2}, kPairBytes});
    } else {
      const int64_t whole = args_.cols / 32;
      product.add(0, whole, {{panel_, panel_ + apart_}, kPairBytes / 2});
      if (whole < num_blocks_) product.add(whole, 1, {{tiles_, tiles_ + kPairBytes / 2}, 0});
    }
    if (end >= num_blocks_) {
      args_.gate ? store_activations(row, product) : store_sums(row, product);
    } else if (!few_) {
      keep_sums(row, product);
    }
  }

  /// Gives the registers the shape of the product's tiles, which takes as long as ten products.
  void configure(const TileProduct<Tiles>& product) {
    if (product.rows[0] == rows_[0] && product.rows[1] == rows_[1]) return;
    rows_[0] = product.rows[0], rows_[1] = product.rows[1];
    product.configure();
  }

  TileProduct<Tiles> make_product(int64_t row) const {
    TileProduct<Tiles> product;
    product.panels = panels_;
    for (int t = 0; t < 2; ++t) {
      const int64_t first = row + t * kTileWidth, left = args_.num_rows - first;
      product.rows[t] = left <= 0 ? 0 : left < kTileWidth ? static_cast<int>(left) : kTileWidth;
      product.x[t] = reinterpret_cast<const std::byte*>(args_.x + first * num_blocks_ * 32);
      product.x_step[t] = product.rows[t] * int64_t{64};
    }
    return product;
  }

  /// The columns past the last whole block of bf16 panels, with zeros behind them.
  void copy_last_block() {
    const size_t left = static_cast<size_t>(args_.cols % 32 + 1) / 2 * 64;
    if (left == 0) return;
    for (int p = 0; p < panels_; ++p) {
      std::byte* to = tiles_ + p * (kPairBytes / 2);
      const std::byte* from =
          panel_ + static_cast<size_t>(p) * apart_ + static_cast<size_t>(args_.cols / 32) * (kPairBytes / 2);
      __builtin_memcpy(to, from, left);
      __builtin_memset(to + left, 0, kPairBytes / 2 - left);
    }
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
  void store_activations(int64_t row, const TileProduct<Tiles>& product) {
    for_sums(row, product, [&]<int kTile>(int64_t first, int, int panel) {
      Tiles::template store<kTile>(gates_[panel] + (first - row) * kTileWidth, 64);
    });
    const int rows = product.rows[0] + product.rows[1];
    if (args_.bias) {
      for (int r = 0; r < rows; ++r) {
        add_to(gates_[0] + r * kTileWidth, args_.bias + column_);
        add_to(gates_[1] + r * kTileWidth, args_.gate->up_bias + column_);
      }
    }
    args_.gate->how.activate(gates_[0], gates_[0], gates_[1], rows * kTileWidth, args_.gate->how.activation);
    store_rounded(row, product);
  }
  void store_rounded(int64_t row, const TileProduct<Tiles>& product) {
    const int64_t column = args_.gate->column + column_;
    for (int t = 0; t < 2; ++t) {
      const int rows = product.rows[t];
      uint16_t* to =
          args_.gate->rounded + (row + t * kTileWidth) * args_.gate->rounded_cols + column / 32 * 32 * rows + column % 32;
      const float* from = gates_[0] + t * kTileWidth * kTileWidth;
      for (int r = 0; r < rows; ++r) Simd::store_bf16(to + r * 32, Simd::load_part(from + r * kTileWidth, kTileWidth));
    }
  }
  static void add_to(float* sums, const float* bias) {
    Simd::store(sums, Simd::add(Simd::load_part(sums, kTileWidth), Simd::load_part(bias, kTileWidth)), kTileWidth);
  }

  /// Sums of a part of K, between its chunks.
  float* kept(int64_t row, int panel) { return kept_ + (row / kTileWidth * 2 + panel) * kTileWidth * kTileWidth; }
  void keep_sums(int64_t row, const TileProduct<Tiles>& product) {
    for_sums(row, product,
             [&]<int kTile>(int64_t first, int, int panel) { Tiles::template store<kTile>(kept(first, panel), 64); });
  }
  void load_sums(int64_t row, const TileProduct<Tiles>& product) {
    for_sums(row, product,
             [&]<int kTile>(int64_t first, int, int panel) { Tiles::template load<kTile>(kept(first, panel), 64); });
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
  const bool few_;          ///< rows: one pass
  int rows_[2] = {-1, -1};  ///< that the registers are configured for
  int panels_ = 0;
  const std::byte* panel_ = nullptr;
  size_t apart_ = 0;    ///< bytes from the first panel to the second
  int64_t column_ = 0;  ///< of the span, where the panels begin
  alignas(64) float sums_[kTileWidth * kTileWidth];
  alignas(64) float gates_[2][2 * kTileWidth * kTileWidth];
  alignas(64) float kept_[kMostSpanRows * 2 * kTileWidth];
  alignas(64) std::byte tiles_[kManyBlocks * kPairBytes];  ///< [blocks][2 panels][16][16][2] bf16
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

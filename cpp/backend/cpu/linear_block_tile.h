// The tile kernel of all quantised formats but f8_e4m3, written once over the panel layouts (pack_layout.h) and a `Simd` type
// (linear_tile.h). Codes are made in registers from their planes, 64 at a time; their products with the bytes of a QuantBlock
// are exact integers, which the scales bring to f32 once per block, or once per half of it.
#pragma once

#include "backend/cpu/linear_tile.h"
#include "backend/cpu/pack_layout.h"
#include "io/code_values.h"

namespace pagoda::cpu {

/// Bits of the codes as they are multiplied, after the look-up if there is one.
constexpr int product_bits(const PanelLayout& layout) {
  if (layout.codes == CodeKind::iq4) return 8;
  if (layout.codes == CodeKind::mxfp4) return 5;
  return layout.low_bits + layout.high_bits;
}

/// The look-up table of a format, as codes with its bias.
struct CodeTable {
  alignas(16) uint8_t bytes[16];
};
constexpr CodeTable code_table(const PanelLayout& layout) {
  const auto& values = layout.codes == CodeKind::mxfp4 ? kMxfp4Values : kIq4Values;
  CodeTable table{};
  for (size_t i = 0; i < 16; ++i) table.bytes[i] = static_cast<uint8_t>(values[i] + layout.bias);
  return table;
}

/// What the block kernels of one format are made of. Everything here is private to its translation unit through `Simd`.
template <class Simd, WeightFormat kFormat>
struct BlockKernel {
  using Floats = typename Simd::Floats;
  static constexpr PanelLayout kLayout = panel_layout(kFormat);
  static constexpr CodeTable kTable = code_table(kLayout);
  static constexpr int kBits = product_bits(kLayout);
  static constexpr bool kHasMin = kLayout.scales == ScaleKind::half_min || kLayout.scales == ScaleKind::groups_min ||
                                  kLayout.scales == ScaleKind::nibble_min;
  using Sums = typename Simd::template Sums<kBits>;

  /// The 64 codes of quad kQuad: values 4 kQuad to 4 kQuad + 3 of the panel's 16 rows.
  template <int kQuad>
  [[gnu::always_inline]] static auto load_codes(const std::byte* codes) {
    constexpr int kLow = kLayout.low_bits, kHigh = kLayout.high_bits;
    auto quad = Simd::template field<kQuad / kLow * kLow, (1 << kLow) - 1>(Simd::load_raw(codes + kQuad % kLow * 64));
    if constexpr (kHigh > 0) {
      const auto plane = Simd::load_raw(codes + (kLow + kQuad % kHigh) * 64);
      quad = Simd::join(quad, Simd::template field<kQuad / kHigh * kHigh - kLow, ((1 << kHigh) - 1) << kLow>(plane));
    }
    if constexpr (kLayout.codes != CodeKind::count) quad = Simd::look_up(kTable.bytes, quad);
    return Simd::template weights<kBits>(quad);
  }

  /// Quads are taken in the order of the vectors that hold them: two nibbles of each byte, one after the other.
  static constexpr int quad_at(int step) {
    const bool nibbles = kLayout.low_bits == 4 && kLayout.groups == 1;
    return nibbles ? step / 2 + step % 2 * 4 : step;
  }

  using Weights = decltype(load_codes<0>(nullptr));

  /// The bytes of a tile's rows that one pass over a block multiplies.
  template <int kRows>
  using Rows = const QuantBytes* [kRows];

  /// Adds the products of steps [kStep, kEnd) of the codes with the rows' bytes to their sums; a panel's block is `stride`
  /// bytes before the next one's.
  template <int kStep, int kEnd, int kPanels, int kRows>
  [[gnu::always_inline]] static void add_products(const std::byte* codes, size_t stride, const Rows<kRows>& bytes,
                                                  Sums (&sums)[kPanels][kRows]) {
    if constexpr (kStep < kEnd) {
      constexpr int kQuad = quad_at(kStep);
      Weights weights[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) weights[p] = load_codes<kQuad>(codes + static_cast<size_t>(p) * stride);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto quad = Simd::broadcast_quad(bytes[r]->quads[kQuad]);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) sums[p][r].add(weights[p], quad);
      }
      if constexpr ((kStep + 1) % Sums::kFold == 0 || kStep + 1 == kEnd) {
        for (auto& panel : sums) {
          for (Sums& sum : panel) sum.fold();
        }
      }
      add_products<kStep + 1, kEnd>(codes, stride, bytes, sums);
    }
  }

  /// What the bias of the codes adds to the products of a group, to be undone. The sums of a NaN block can be any numbers.
  template <int kGroup>
  [[gnu::always_inline]] static int32_t offset(const QuantBytes& x) {
    if constexpr (kLayout.bias == 0) return 0;
    if constexpr (kLayout.groups == 2) return static_cast<int32_t>(int64_t{x.half_sum[kGroup]} * -kLayout.bias);
    if constexpr (kLayout.bias == 8) return x.minus_8_sum;
    if constexpr (kLayout.bias == 128) return x.minus_128_sum;
    return static_cast<int32_t>((int64_t{x.half_sum[0]} + x.half_sum[1]) * -kLayout.bias);
  }

  /// d and -m of 256 values.
  struct Outer {
    Floats d, minus_m;
  };
  [[gnu::always_inline]] static Outer load_outer(const std::byte* at) {
    Outer outer{Simd::load_f16(at), Simd::zero()};
    if constexpr (kHasMin) outer.minus_m = Simd::mul(Simd::broadcast(-1.0f), Simd::load_f16(at + 32));
    return outer;
  }

  template <int kGroup>
  [[gnu::always_inline]] static Floats load_scale(const std::byte* at, const Outer& outer) {
    if constexpr (kLayout.scales == ScaleKind::half || kLayout.scales == ScaleKind::half_min) return Simd::load_f16(at);
    if constexpr (kLayout.scales == ScaleKind::single || kLayout.scales == ScaleKind::single_zero) return Simd::load_f32(at);
    if constexpr (kLayout.scales == ScaleKind::exponent) return Simd::load_exponents(at);
    if constexpr (kLayout.scales == ScaleKind::nibble_min) return Simd::mul(outer.d, Simd::load_low_nibbles(at + 16 * kGroup));
    return Simd::mul(outer.d, Simd::load_i8(at + 16 * kGroup));
  }
  template <int kGroup>
  [[gnu::always_inline]] static Floats load_min(const std::byte* at, const Outer& outer) {
    if constexpr (kLayout.scales == ScaleKind::half_min) return Simd::load_f16(at + 32);
    if constexpr (kLayout.scales == ScaleKind::groups_min) return Simd::mul(outer.minus_m, Simd::load_i8(at + 16));
    return Simd::mul(outer.minus_m, Simd::load_high_nibbles(at + 16 * kGroup));
  }

  /// What a minimum is multiplied with. Where a block has one, its low bytes are in the sum of the high ones' turn.
  template <int kGroup, bool kLow>
  [[gnu::always_inline]] static float scaled_sum(const QuantBlock& block, const QuantBytes& bytes) {
    if constexpr (kLayout.groups == 1) return block.scaled_sum;
    const auto sum = static_cast<float>(bytes.half_sum[kGroup]);
    return block.scale * (kLow ? sum * 0x1p-7f : sum);
  }

  /// Brings the sums of one group to f32 and adds them to the accumulators. `scales` are the first panel's.
  template <int kGroup, bool kLow, int kPanels, int kRows>
  [[gnu::always_inline]] static void add_sums(const Sums (&sums)[kPanels][kRows], const std::byte* scales, size_t stride,
                                              const Outer (&outer)[kPanels], const QuantBlock* x, const Rows<kRows>& bytes,
                                              Floats (&acc)[kPanels][kRows]) {
    Floats scale[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      scale[p] = load_scale<kGroup>(scales + static_cast<size_t>(p) * stride, outer[p]);
      if constexpr (kLow) scale[p] = Simd::mul(scale[p], Simd::broadcast(0x1p-7f));
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Floats x_scale = Simd::broadcast(x[r].scale);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        Floats products = sums[p][r].finish(offset<kGroup>(*bytes[r]));
        if constexpr (kLayout.scales == ScaleKind::single_zero) {  // both terms are integers below 2^24: exact
          const auto minus_sum = static_cast<float>(-(int64_t{bytes[r]->half_sum[0]} + bytes[r]->half_sum[1]));
          const Floats zero = Simd::load_i8(scales + static_cast<size_t>(p) * stride + 64);
          products = Simd::fma(zero, Simd::broadcast(minus_sum), products);
        }
        acc[p][r] = Simd::fma(products, Simd::mul(scale[p], x_scale), acc[p][r]);
      }
    }
    if constexpr (kHasMin && (!kLow || kLayout.groups == 2)) {
      Floats min[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) min[p] = load_min<kGroup>(scales + static_cast<size_t>(p) * stride, outer[p]);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Floats sum = Simd::broadcast(scaled_sum<kGroup, kLow>(x[r], *bytes[r]));
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) acc[p][r] = Simd::fma(min[p], sum, acc[p][r]);
      }
    }
  }

  /// Adds one group of one block to the accumulators.
  template <int kGroup, bool kLow, int kPanels, int kRows>
  [[gnu::always_inline]] static void add_group(const std::byte* block, size_t stride, const Outer (&outer)[kPanels],
                                               const QuantBlock* x, const Rows<kRows>& bytes, Floats (&acc)[kPanels][kRows]) {
    constexpr int kSteps = 8 / kLayout.groups;
    Sums sums[kPanels][kRows];
    for (auto& panel : sums) {
      for (int r = 0; r < kRows; ++r) panel[r].start(offset<kGroup>(*bytes[r]));
    }
    add_products<kGroup * kSteps, (kGroup + 1) * kSteps>(block, stride, bytes, sums);
    add_sums<kGroup, kLow>(sums, block + kLayout.code_bytes(), stride, outer, x, bytes, acc);
  }

  template <bool kLow, int kPanels, int kRows>
  [[gnu::always_inline]] static void add_block(const std::byte* block, size_t stride, const Outer (&outer)[kPanels],
                                               const QuantBlock* x, const QuantBytes* low, Floats (&acc)[kPanels][kRows]) {
    Rows<kRows> bytes;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) bytes[r] = kLow ? low + r : static_cast<const QuantBytes*>(x + r);
    add_group<0, kLow>(block, stride, outer, x, bytes, acc);
    if constexpr (kLayout.groups == 2) add_group<1, kLow>(block, stride, outer, x, bytes, acc);
  }

  /// Where a column lies in a panel: bytes to its outer fields and to its block, and its place in the block.
  struct ColumnPlace {
    size_t outer, block;
    uint32_t quad, byte;
  };
  [[gnu::always_inline]] static ColumnPlace column_place(uint32_t col) {
    constexpr size_t kBlockBytes = kLayout.block_bytes(), kOuterBytes = kLayout.outer_bytes();
    const uint32_t index = col / kBlockCols;
    const size_t outer = index / kLayout.blocks * (kOuterBytes + kLayout.blocks * kBlockBytes);
    return {outer, outer + kOuterBytes + index % kLayout.blocks * kBlockBytes, col % kBlockCols / 4, col % 4};
  }

  /// The 16 codes of a column, as they are multiplied.
  [[gnu::always_inline]] static Floats column_codes(const std::byte* block, const ColumnPlace& at) {
    constexpr uint32_t kLow = kLayout.low_bits, kHigh = kLayout.high_bits;
    auto codes = Simd::bits_at(block + at.quad % kLow * 64, 8 * at.byte + at.quad / kLow * kLow, (1u << kLow) - 1);
    if constexpr (kHigh > 0) {
      const uint32_t shift = 8 * at.byte + at.quad / kHigh * kHigh;
      const auto high = Simd::bits_at(block + (kLow + at.quad % kHigh) * 64, shift, (1u << kHigh) - 1);
      codes = Simd::join(codes, Simd::template field<-static_cast<int>(kLow), ((1 << kHigh) - 1) << kLow>(high));
    }
    if constexpr (kLayout.codes != CodeKind::count) codes = Simd::look_up(kTable.bytes, codes);
    return Simd::low_bytes(codes);
  }

  /// The 16 weights of a column of a panel.
  [[gnu::always_inline]] static Floats column(const std::byte* panel, const ColumnPlace& at) {
    const std::byte* scales = panel + at.block + kLayout.code_bytes();
    Outer outer{};
    if constexpr (kLayout.outer_bytes() > 0) outer = load_outer(panel + at.outer);
    Floats value = column_codes(panel + at.block, at);
    if constexpr (kLayout.scales == ScaleKind::single_zero) {
      value = Simd::fma(Simd::broadcast(-1.0f), Simd::load_i8(scales + 64), value);
    } else if constexpr (kLayout.bias > 0) {
      value = Simd::add(value, Simd::broadcast(-float{kLayout.bias}));
    }
    const std::byte* own = scales + (kLayout.groups == 2 ? at.quad / 4 * 16 : 0);
    if constexpr (kHasMin) return Simd::fma(load_scale<0>(own, outer), value, load_min<0>(own, outer));
    return Simd::mul(load_scale<0>(own, outer), value);
  }

  /// Adds the outliers' products to the accumulators. The list has those of a row together: its sums, by way of memory as the
  /// row is known only here, stay in registers for all of them.
  template <int kPanels, int kRows>
  [[gnu::noinline]] static void add_outliers(const Outlier* list, const std::byte* panel, size_t panel_bytes,
                                             Floats (&acc)[kPanels][kRows]) {
    const Outlier* end = list + list->col + 1;
    for (const Outlier* outlier = list + 1; outlier != end;) {
      const int32_t row = outlier->row;
      Floats sums[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) sums[p] = acc[p][row];
      do {
        const Floats value = Simd::broadcast(outlier->value);
        const ColumnPlace place = column_place(static_cast<uint32_t>(outlier->col));
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          sums[p] = Simd::fma(column(panel + static_cast<size_t>(p) * panel_bytes, place), value, sums[p]);
        }
        ++outlier;
      } while (outlier != end && outlier->row == row);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) acc[p][row] = sums[p];
    }
  }

  /// The same address, of which the compiler does not know that: or it keeps codes that it has unpacked in registers for
  /// another pass, and the accumulators in memory.
  [[gnu::always_inline]] static const std::byte* unknown(const std::byte* at) {
    asm("" : "+r"(at));
    return at;
  }

  template <int kPanels, int kRows>
  static void tile(const TileArgs& args) {
    constexpr int kBlockBytes = kLayout.block_bytes(), kOuterBytes = kLayout.outer_bytes();
    const QuantBlock* x = static_cast<const QuantBlock*>(args.x);
    const QuantBytes* low = args.low;
    const std::byte* panel = args.panel;
    const std::byte* ahead = args.ahead;
    const int64_t step = kPanels * kBlockBytes / args.ahead_share, outer_step = kPanels * kOuterBytes / args.ahead_share;
    Floats acc[kPanels][kRows];
    clear<Simd>(acc);
    for (int64_t left = args.cols / (kBlockCols * kLayout.blocks); left > 0; --left) {
      Outer outer[kPanels] = {};
      if constexpr (kOuterBytes > 0) {
        prefetch<Simd, kPanels * kOuterBytes>(ahead, outer_step);
        for (int p = 0; p < kPanels; ++p) outer[p] = load_outer(panel + static_cast<size_t>(p) * args.panel_bytes);
        panel += kOuterBytes;
      }
      for (int b = 0; b < kLayout.blocks; ++b, panel += kBlockBytes, x += kRows) {
        prefetch<Simd, kPanels * kBlockBytes>(ahead, step);
        add_block<false>(panel, args.panel_bytes, outer, x, low, acc);
        if (low) {
          add_block<true>(unknown(panel), args.panel_bytes, outer, x, low, acc);
          low += kRows;
        }
      }
    }
    if (args.outliers && args.outliers->col > 0) {
      Floats sums[kPanels][kRows];
      copy_sums(acc, sums);
      add_outliers(args.outliers, args.panel, args.panel_bytes, sums);
      copy_sums(sums, acc);
    }
    store_tile<Simd>(args, acc);
  }

  /// Without which the accumulators, passed on by address, would be in memory all the time.
  template <int kPanels, int kRows>
  [[gnu::always_inline]] static void copy_sums(const Floats (&from)[kPanels][kRows], Floats (&to)[kPanels][kRows]) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) to[p][r] = from[p][r];
    }
  }
};

}  // namespace pagoda::cpu

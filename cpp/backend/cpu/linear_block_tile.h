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

  /// Adds the products of steps [kStep, kEnd) to the rows' sums.
  template <int kStep, int kEnd, int kRows>
  [[gnu::always_inline]] static void add_products(const std::byte* codes, const QuantBlock* x, Sums (&sums)[kRows]) {
    if constexpr (kStep < kEnd) {
      constexpr int kQuad = quad_at(kStep);
      const auto weights = load_codes<kQuad>(codes);
      for (int r = 0; r < kRows; ++r) sums[r].add_high(weights, x[r].high[kQuad]);
      for (int r = 0; r < kRows; ++r) sums[r].add_low(weights, x[r].low[kQuad]);
      if constexpr ((kStep + 1) % Sums::kFold == 0 || kStep + 1 == kEnd) {
        for (int r = 0; r < kRows; ++r) sums[r].fold();
      }
      add_products<kStep + 1, kEnd, kRows>(codes, x, sums);
    }
  }

  /// What the bias of the codes adds to the products of a group, to be undone. The sums of a NaN block can be any numbers.
  template <int kGroup>
  [[gnu::always_inline]] static int32_t offset(const QuantBlock& x) {
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
  template <int kGroup>
  [[gnu::always_inline]] static float scaled_sum(const QuantBlock& x) {
    if constexpr (kLayout.groups == 1) return x.scaled_sum;
    return x.scale * static_cast<float>(x.half_sum[kGroup]);
  }

  /// Adds one group of one block to the rows' accumulators.
  template <int kGroup, int kRows>
  [[gnu::always_inline]] static void add_group(const std::byte* block, const Outer& outer, const QuantBlock* x,
                                               Floats (&acc)[kRows]) {
    constexpr int kSteps = 8 / kLayout.groups;
    Sums sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r].start(offset<kGroup>(x[r]));
    add_products<kGroup * kSteps, (kGroup + 1) * kSteps, kRows>(block, x, sums);

    const std::byte* scales = block + kLayout.code_bytes();
    const Floats scale = load_scale<kGroup>(scales, outer);
    for (int r = 0; r < kRows; ++r) {
      Floats products = sums[r].finish(offset<kGroup>(x[r]));
      if constexpr (kLayout.scales == ScaleKind::single_zero) {  // both terms are integers below 2^24: exact
        const auto minus_sum = static_cast<float>(-(int64_t{x[r].half_sum[0]} + x[r].half_sum[1]));
        products = Simd::fma(Simd::load_i8(scales + 64), Simd::broadcast(minus_sum), products);
      }
      acc[r] = Simd::fma(products, Simd::mul(scale, Simd::broadcast(x[r].scale)), acc[r]);
    }
    if constexpr (kHasMin) {
      const Floats min = load_min<kGroup>(scales, outer);
      for (int r = 0; r < kRows; ++r) acc[r] = Simd::fma(min, Simd::broadcast(scaled_sum<kGroup>(x[r])), acc[r]);
    }
  }

  template <int kRows>
  static void tile(const TileArgs& args) {
    constexpr int kBlockBytes = kLayout.block_bytes(), kOuterBytes = kLayout.outer_bytes();
    const QuantBlock* x = static_cast<const QuantBlock*>(args.x);
    const std::byte* panel = args.panel;
    const std::byte* ahead = args.ahead;
    const int64_t step = kBlockBytes / args.ahead_share, outer_step = kOuterBytes / args.ahead_share;
    Floats acc[kRows];
    for (int r = 0; r < kRows; ++r) acc[r] = Simd::zero();
    for (int64_t left = args.cols / (kBlockCols * kLayout.blocks); left > 0; --left) {
      Outer outer{};
      if constexpr (kOuterBytes > 0) {
        prefetch<Simd, kOuterBytes>(ahead, outer_step);
        outer = load_outer(panel);
        panel += kOuterBytes;
      }
      for (int b = 0; b < kLayout.blocks; ++b, panel += kBlockBytes, x += kRows) {
        prefetch<Simd, kBlockBytes>(ahead, step);
        add_group<0, kRows>(panel, outer, x, acc);
        if constexpr (kLayout.groups == 2) add_group<1, kRows>(panel, outer, x, acc);
      }
    }
    store_tile<Simd, kRows>(args, acc);
  }
};

}  // namespace pagoda::cpu

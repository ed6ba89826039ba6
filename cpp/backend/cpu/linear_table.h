// Fills the kernel table of one instruction set: one kernel per format and number of rows. Included by each linear_<isa>.cc.
#pragma once

#include <utility>

#include "backend/cpu/linear_block_tile.h"
#include "backend/cpu/linear_quantise.h"
#include "backend/cpu/linear_tile.h"

namespace pagoda::cpu {

/// Formats whose kernels fill_kernels sets by themselves: f32, f16, bf16, f8_e4m3.
constexpr int kNumOwnKernels = 4;

template <class Simd, int kRows>
constexpr bool kPaired = Simd::kHasPairs && kRows >= kMinPairRows;

template <class Simd, int kRows, WeightFormat... kFormats>
constexpr void fill_block_kernels(LinearKernels& kernels) {
  static_assert(kNumOwnKernels + sizeof...(kFormats) == kNumWeightFormats, "a format has no kernel, or two");
  ((kernels.tile[static_cast<int>(kFormats)][kRows - 1] = BlockKernel<Simd, kFormats>::template tile<1, kRows>), ...);
  if constexpr (kPaired<Simd, kRows>) {
    ((kernels.pair[static_cast<int>(kFormats)][kRows - 1] = BlockKernel<Simd, kFormats>::template tile<2, kRows>), ...);
  }
}

template <class Simd, int kRows>
constexpr void fill_kernels(LinearKernels& kernels) {
  auto set = [&](WeightFormat format, TileKernel one, TileKernel two) {
    kernels.tile[static_cast<int>(format)][kRows - 1] = one;
    kernels.pair[static_cast<int>(format)][kRows - 1] = two;
  };
  constexpr int kMost = kPaired<Simd, kRows> ? 2 : 1;
  const auto two = [](TileKernel kernel) { return kMost == 2 ? kernel : nullptr; };
  set(WeightFormat::f32, float_tile<Simd, WeightFormat::f32, 1, kRows>, two(float_tile<Simd, WeightFormat::f32, kMost, kRows>));
  set(WeightFormat::f16, float_tile<Simd, WeightFormat::f16, 1, kRows>, two(float_tile<Simd, WeightFormat::f16, kMost, kRows>));
  if constexpr (Simd::kRoundsToBf16) {
    set(WeightFormat::bf16, bf16_tile<Simd, 1, kRows>, two(bf16_tile<Simd, kMost, kRows>));
  } else {
    set(WeightFormat::bf16, widened_bf16_tile<Simd, kRows>, nullptr);
  }
  set(WeightFormat::f8_e4m3, f8_tile<Simd, kRows>, nullptr);
  fill_block_kernels<Simd, kRows, WeightFormat::q8_0, WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::q5_0,
                     WeightFormat::q5_1, WeightFormat::q2_k, WeightFormat::q3_k, WeightFormat::q4_k, WeightFormat::q5_k,
                     WeightFormat::q6_k, WeightFormat::iq4_nl, WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::int8,
                     WeightFormat::int4>(kernels);
}

/// The table of one instruction set.
template <class Simd>
constexpr LinearKernels make_linear_kernels(Isa isa) {
  LinearKernels kernels{isa, Simd::kTileRows, Simd::kRoundsToBf16, quantise_row<Simd>, nullptr, {}, {}, {}, 0, {}};
  if constexpr (Simd::kRoundsToBf16) kernels.round_row = Simd::round_row;
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) {
    (fill_kernels<Simd, kIndex + 1>(kernels), ...);
  }(std::make_integer_sequence<int, Simd::kTileRows>{});
  return kernels;
}

}  // namespace pagoda::cpu

// The tile kernels of weights that are multiplied as floats, and what all tiles share, written once over a `Simd` type that
// each linear_<isa>.cc defines in its anonymous namespace (so that every instantiation is private to its translation unit and
// code for a newer CPU can never be linked in place of a baseline one).
//
// Simd offers Floats (16 of them) and the operations used below and in linear_block_tile.h, there over raw vectors of 64 bytes
// and Sums<bits>: 16 running integer dot products of codes of that many bits. One tile keeps its rows' accumulators in
// registers over all of K and reads the panel once: 2 * 16 * K * rows flops for one pass over the panel's bytes.
#pragma once

#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

/// While a tile uses `kBytes` of its panels it fetches the same number from `ahead`, which moves on by the tile's share of
/// them.
template <class Simd, int kBytes>
[[gnu::always_inline]] inline void prefetch(const std::byte*& ahead, int64_t step) {
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(ahead + i);
  ahead += step;
}

template <class Simd, int kPanels, int kRows>
[[gnu::always_inline]] inline void store_tile(const TileArgs& args, const typename Simd::Floats (&acc)[kPanels][kRows]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const int width = p + 1 < kPanels ? 16 : args.width;
      float* out = args.out + r * args.out_stride + p * 16;
      if (args.bias) {
        Simd::store(out, Simd::add(acc[p][r], Simd::load_part(args.bias + p * 16, width)), width);
      } else {
        Simd::store(out, acc[p][r], width);
      }
    }
  }
}

/// The accumulators of a tile, zero.
template <class Simd, int kPanels, int kRows>
[[gnu::always_inline]] inline void clear(typename Simd::Floats (&acc)[kPanels][kRows]) {
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) acc[p][r] = Simd::zero();
  }
}

/// f32 and f16 panels [K][16].
template <class Simd, WeightFormat kFormat, int kPanels, int kRows>
void float_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  constexpr int kStep = kFormat == WeightFormat::f32 ? 64 : 32;
  const float* x = static_cast<const float*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = kPanels * kStep / args.ahead_share;
  Floats acc[kPanels][kRows];
  clear<Simd>(acc);
  for (int64_t k = 0; k < args.cols; ++k, panel += kStep) {
    prefetch<Simd, kPanels * kStep>(ahead, step);
    Floats w[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      const std::byte* at = panel + static_cast<size_t>(p) * args.panel_bytes;
      w[p] = kFormat == WeightFormat::f32 ? Simd::load_f32(at) : Simd::load_f16(at);
    }
    for (int r = 0; r < kRows; ++r) {
      const Floats value = Simd::broadcast(x[r * args.x_stride + k]);
      for (int p = 0; p < kPanels; ++p) acc[p][r] = Simd::fma(w[p], value, acc[p][r]);
    }
  }
  store_tile<Simd>(args, acc);
}

/// bf16 panels [K/2][16][2] times f32 input: the weights are widened in registers.
template <class Simd, int kRows>
void widened_bf16_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  const float* x = static_cast<const float*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = 64 / args.ahead_share;
  Floats acc[1][kRows];
  clear<Simd>(acc);
  for (int64_t k = 0; k < args.cols; k += 2, panel += 64) {
    prefetch<Simd, 64>(ahead, step);
    const Floats first = Simd::load_bf16_first(panel);
    for (int r = 0; r < kRows; ++r) acc[0][r] = Simd::fma(first, Simd::broadcast(x[r * args.x_stride + k]), acc[0][r]);
    if (k + 1 == args.cols) break;
    const Floats second = Simd::load_bf16_second(panel);
    for (int r = 0; r < kRows; ++r) acc[0][r] = Simd::fma(second, Simd::broadcast(x[r * args.x_stride + k + 1]), acc[0][r]);
  }
  store_tile<Simd>(args, acc);
}

/// bf16 panels [K/2][16][2] times bf16 input, rows padded with zero.
template <class Simd, int kPanels, int kRows>
void bf16_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  const uint16_t* x = static_cast<const uint16_t*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = kPanels * 64 / args.ahead_share;
  Floats acc[kPanels][kRows];
  clear<Simd>(acc);
  for (int64_t k = 0; k < args.cols; k += 2, panel += 64) {
    prefetch<Simd, kPanels * 64>(ahead, step);
    typename Simd::Pairs w[kPanels];
    for (int p = 0; p < kPanels; ++p) w[p] = Simd::load_bf16_pairs(panel + static_cast<size_t>(p) * args.panel_bytes);
    for (int r = 0; r < kRows; ++r) {
      const auto pair = Simd::broadcast_pair(x + r * args.x_stride + k);
      for (int p = 0; p < kPanels; ++p) acc[p][r] = Simd::dot_bf16(acc[p][r], w[p], pair);
    }
  }
  store_tile<Simd>(args, acc);
}

/// f8_e4m3 panels: per block [16][16][2] bytes (value 2p + i of row c is byte (p, c, i)) and 16 f32 scales; times f32 input.
/// The weights are widened and scaled in registers, so that a product has the weight that unpack_row gives.
template <class Simd, int kRows>
void f8_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  constexpr int kBlockBytes = 576;
  const float* x = static_cast<const float*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = kBlockBytes / args.ahead_share;
  Floats acc[1][kRows];
  clear<Simd>(acc);
  for (int64_t k = 0; k < args.cols; k += 32, panel += kBlockBytes) {
    prefetch<Simd, kBlockBytes>(ahead, step);
    const Floats scale = Simd::mul(Simd::load_f32(panel + 512), Simd::broadcast(0x1p8f));
#pragma GCC unroll 2
    for (int p = 0; p < 16; ++p) {
      const auto pair = Simd::load_e4m3_pairs(panel + p * 32);
      const Floats first = Simd::mul(pair.first, scale), second = Simd::mul(pair.second, scale);
      const float* at = x + k + 2 * p;
      for (int r = 0; r < kRows; ++r) acc[0][r] = Simd::fma(first, Simd::broadcast(at[r * args.x_stride]), acc[0][r]);
      for (int r = 0; r < kRows; ++r) acc[0][r] = Simd::fma(second, Simd::broadcast(at[r * args.x_stride + 1]), acc[0][r]);
    }
  }
  store_tile<Simd>(args, acc);
}

}  // namespace pagoda::cpu

// The tile kernels, written once over a `Simd` type that each linear_<isa>.cc defines in its anonymous namespace (so that every
// instantiation is private to its translation unit and code for a newer CPU can never be linked in place of a baseline one).
//
// Simd offers: Floats (16 floats), Quads (16 columns x 4 unsigned bytes), Sum4 and Sum8 (16 running integer dot products of
// nibbles and of bytes with offset 128) and the operations used below. One tile keeps its rows' accumulators in registers over
// all of K and reads the panel once: 2 * 16 * K * rows flops for one pass over the panel's bytes.
#pragma once

#include <utility>

#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

/// While a tile uses `kBytes` of its panel it fetches the same number from `ahead`, which moves on by the tile's share of them.
template <class Simd, int kBytes>
[[gnu::always_inline]] inline void prefetch(const std::byte*& ahead, int64_t step) {
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(ahead + i);
  ahead += step;
}

template <class Simd, int kRows>
[[gnu::always_inline]] inline void store_tile(const TileArgs& args, const typename Simd::Floats (&acc)[kRows]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    float* out = args.out + r * args.out_stride;
    if (args.bias) {
      Simd::store(out, Simd::add(acc[r], Simd::load_part(args.bias, args.width)), args.width);
    } else {
      Simd::store(out, acc[r], args.width);
    }
  }
}

/// f32 and f16 panels [K][16].
template <class Simd, WeightFormat kFormat, int kRows>
void float_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  constexpr int kStep = kFormat == WeightFormat::f32 ? 64 : 32;
  const float* x = static_cast<const float*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = kStep / args.ahead_share;
  Floats acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = Simd::zero();
  for (int64_t k = 0; k < args.cols; ++k, panel += kStep) {
    prefetch<Simd, kStep>(ahead, step);
    const Floats w = kFormat == WeightFormat::f32 ? Simd::load_f32(panel) : Simd::load_f16(panel);
    for (int r = 0; r < kRows; ++r) acc[r] = Simd::fma(w, Simd::broadcast(x[r * args.x_stride + k]), acc[r]);
  }
  store_tile<Simd, kRows>(args, acc);
}

/// bf16 panels [K/2][16][2] times f32 input: the weights are widened in registers.
template <class Simd, int kRows>
void widened_bf16_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  const float* x = static_cast<const float*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = 64 / args.ahead_share;
  Floats acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = Simd::zero();
  for (int64_t k = 0; k < args.cols; k += 2, panel += 64) {
    prefetch<Simd, 64>(ahead, step);
    const Floats first = Simd::load_bf16_first(panel);
    for (int r = 0; r < kRows; ++r) acc[r] = Simd::fma(first, Simd::broadcast(x[r * args.x_stride + k]), acc[r]);
    if (k + 1 == args.cols) break;
    const Floats second = Simd::load_bf16_second(panel);
    for (int r = 0; r < kRows; ++r) acc[r] = Simd::fma(second, Simd::broadcast(x[r * args.x_stride + k + 1]), acc[r]);
  }
  store_tile<Simd, kRows>(args, acc);
}

/// bf16 panels [K/2][16][2] times bf16 input, rows padded to an even length.
template <class Simd, int kRows>
void bf16_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  const uint16_t* x = static_cast<const uint16_t*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = 64 / args.ahead_share;
  Floats acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = Simd::zero();
  for (int64_t k = 0; k < args.cols; k += 2, panel += 64) {
    prefetch<Simd, 64>(ahead, step);
    const auto w = Simd::load_bf16_pairs(panel);
    for (int r = 0; r < kRows; ++r) acc[r] = Simd::dot_bf16(acc[r], w, x + r * args.x_stride + k);
  }
  store_tile<Simd, kRows>(args, acc);
}

/// q8_0 panels: per block [8][16][4] bytes (q + 128) and 16 f16 scales.
template <class Simd, int kRows>
void q8_0_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  constexpr int kBlockBytes = 544;
  const int64_t blocks = args.cols / 32;
  const QuantBlock* x = static_cast<const QuantBlock*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = kBlockBytes / args.ahead_share;
  Floats acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = Simd::zero();
  for (int64_t b = 0; b < blocks; ++b, panel += kBlockBytes, x += kRows) {
    prefetch<Simd, kBlockBytes>(ahead, step);
    typename Simd::Sum8 high[kRows], low[kRows];
    for (int r = 0; r < kRows; ++r) high[r] = Simd::start8(0), low[r] = Simd::start8(x[r].minus_128_sum);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const typename Simd::Bytes w = Simd::load_bytes(panel + j * 64);
      for (int r = 0; r < kRows; ++r) high[r] = Simd::dot8(high[r], w, x[r].high[j]);
      for (int r = 0; r < kRows; ++r) low[r] = Simd::dot8(low[r], w, x[r].low[j]);
    }
    const Floats scale = Simd::load_f16(panel + 512);
    for (int r = 0; r < kRows; ++r) {
      acc[r] = Simd::fma(Simd::finish8(high[r], low[r]), Simd::mul(scale, Simd::broadcast(x[r].scale)), acc[r]);
    }
  }
  store_tile<Simd, kRows>(args, acc);
}

/// q4_0 and q4_1 panels: per block [4][16][4] bytes, byte (j, c, i) holds values 4j + i (low half) and 16 + 4j + i (high half)
/// of column c; then 16 f16 scales and, for q4_1, 16 f16 minima.
template <class Simd, WeightFormat kFormat, int kRows>
void q4_tile(const TileArgs& args) {
  using Floats = typename Simd::Floats;
  constexpr bool kHasMin = kFormat == WeightFormat::q4_1;
  constexpr int kBlockBytes = kHasMin ? 320 : 288;
  const int64_t blocks = args.cols / 32;
  const QuantBlock* x = static_cast<const QuantBlock*>(args.x);
  const std::byte* panel = args.panel;
  const std::byte* ahead = args.ahead;
  const int64_t step = kBlockBytes / args.ahead_share;
  Floats acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = Simd::zero();
  for (int64_t b = 0; b < blocks; ++b, panel += kBlockBytes, x += kRows) {
    prefetch<Simd, kBlockBytes>(ahead, step);
    typename Simd::Sum4 high[kRows], low[kRows];
    for (int r = 0; r < kRows; ++r) high[r] = Simd::start4(0), low[r] = Simd::start4(kHasMin ? 0 : x[r].minus_8_sum);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const typename Simd::Quads packed = Simd::load_quads(panel + j * 64);
      const typename Simd::Quads first = Simd::low_nibbles(packed);
      for (int r = 0; r < kRows; ++r) high[r] = Simd::dot4(high[r], first, x[r].high[j]);
      for (int r = 0; r < kRows; ++r) low[r] = Simd::dot4(low[r], first, x[r].low[j]);
      const typename Simd::Quads second = Simd::high_nibbles(packed);
      for (int r = 0; r < kRows; ++r) high[r] = Simd::dot4(high[r], second, x[r].high[j + 4]);
      for (int r = 0; r < kRows; ++r) low[r] = Simd::dot4(low[r], second, x[r].low[j + 4]);
    }
    const Floats scale = Simd::load_f16(panel + 256);
    for (int r = 0; r < kRows; ++r) {
      const Floats products = Simd::finish4(high[r], low[r], kHasMin ? 0 : x[r].minus_8_sum);
      acc[r] = Simd::fma(products, Simd::mul(scale, Simd::broadcast(x[r].scale)), acc[r]);
    }
    if constexpr (kHasMin) {
      const Floats min = Simd::load_f16(panel + 288);
      for (int r = 0; r < kRows; ++r) acc[r] = Simd::fma(min, Simd::broadcast(x[r].scaled_sum), acc[r]);
    }
  }
  store_tile<Simd, kRows>(args, acc);
}

/// Scale of a block whose largest magnitude has these bits, and the factor that brings its values into [-kMaxQuant, kMaxQuant].
/// The scale is NaN for NaN and infinity. Magnitudes below 2^-100 count as zero, so that the factor stays finite.
template <class Simd>
[[gnu::always_inline]] inline float block_scale(uint32_t largest_bits, float& inverse) {
  constexpr uint32_t kInfinityBits = 0x7f800000u;
  constexpr float kTiny = 0x1p-100f;
  const float largest = __builtin_bit_cast(float, largest_bits);
  const bool finite = largest_bits < kInfinityBits;
  const bool zero = largest < kTiny;
  inverse = finite && !zero ? static_cast<float>(kMaxQuant) / largest : 0.0f;
  if (!finite) return __builtin_nanf("");
  return zero ? 0.0f : largest / static_cast<float>(kMaxQuant);
}

template <class Simd>
[[gnu::always_inline]] inline void store_sums(QuantBlock& out, float scale, int32_t sum) {
  out.scale = scale;
  out.scaled_sum = scale * static_cast<float>(sum);
  out.minus_8_sum = static_cast<int32_t>(int64_t{-8} * sum);  // in 64 bits: the sum of a block with a NaN can be any number
  out.minus_128_sum = static_cast<int32_t>(int64_t{-128} * sum);
}

/// The lowest bytes of four integers, the first lowest.
template <class Simd>
[[gnu::always_inline]] inline int32_t pack_quad(const uint32_t* four) {
  return static_cast<int32_t>((four[0] & 0xff) | (four[1] & 0xff) << 8 | (four[2] & 0xff) << 16 | four[3] << 24);
}

/// One block in plain loops, which the compiler vectorises.
template <class Simd>
[[gnu::always_inline]] inline void quantise_plainly(const float* x, QuantBlock& out) {
  constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even
  constexpr int32_t kMagicBits = 0x4b400000;
  uint32_t largest = 0;  // magnitudes order like their bits, with NaN on top
  for (int i = 0; i < 32; ++i) {
    const uint32_t magnitude = __builtin_bit_cast(uint32_t, x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  float inverse;
  const float scale = block_scale<Simd>(largest, inverse);
  uint32_t q[32];
  uint32_t sum = 0;
  for (int i = 0; i < 32; ++i) {
    q[i] = __builtin_bit_cast(uint32_t, x[i] * inverse + kRoundMagic) - kMagicBits;
    sum += q[i];
  }
  uint32_t high[32];
  for (int i = 0; i < 32; ++i) {
    high[i] = static_cast<uint32_t>(static_cast<int32_t>(q[i] + 64) >> kHighShift);
    q[i] -= high[i] << kHighShift;
  }
  for (int j = 0; j < 8; ++j) {
    out.high[j] = pack_quad<Simd>(high + 4 * j);
    out.low[j] = pack_quad<Simd>(q + 4 * j);
  }
  store_sums<Simd>(out, scale, static_cast<int32_t>(sum));
}

template <class Simd>
void quantise_row(const float* x, int64_t cols, QuantBlock* out, int64_t stride) {
  for (int64_t k = 0; k < cols; k += 32, out += stride) Simd::quantise_block(x + k, *out);
}

template <class Simd, int kRows>
constexpr void fill_kernels(LinearKernels& kernels) {
  auto set = [&](WeightFormat format, TileKernel kernel) { kernels.tile[static_cast<int>(format)][kRows - 1] = kernel; };
  set(WeightFormat::f32, float_tile<Simd, WeightFormat::f32, kRows>);
  set(WeightFormat::f16, float_tile<Simd, WeightFormat::f16, kRows>);
  if constexpr (Simd::kRoundsToBf16) {
    set(WeightFormat::bf16, bf16_tile<Simd, kRows>);
  } else {
    set(WeightFormat::bf16, widened_bf16_tile<Simd, kRows>);
  }
  set(WeightFormat::q8_0, q8_0_tile<Simd, kRows>);
  set(WeightFormat::q4_0, q4_tile<Simd, WeightFormat::q4_0, kRows>);
  set(WeightFormat::q4_1, q4_tile<Simd, WeightFormat::q4_1, kRows>);
}

/// The table of one instruction set.
template <class Simd>
constexpr LinearKernels make_linear_kernels(Isa isa) {
  LinearKernels kernels{isa, Simd::kTileRows, Simd::kRoundsToBf16, quantise_row<Simd>, nullptr, {}};
  if constexpr (Simd::kRoundsToBf16) kernels.round_row = Simd::round_row;
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) {
    (fill_kernels<Simd, kIndex + 1>(kernels), ...);
  }(std::make_integer_sequence<int, Simd::kTileRows>{});
  return kernels;
}

}  // namespace pagoda::cpu

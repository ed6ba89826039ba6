// Quantisation of the input to blocks of 15-bit integers, for the per-ISA files (see linear_tile.h).
#pragma once

#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

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
[[gnu::always_inline]] inline void store_sums(QuantBlock& out, float scale, int32_t first_half, int32_t last_half) {
  const int64_t sum = int64_t{first_half} + last_half;  // in 64 bits: the sums of a block with a NaN can be any numbers
  out.scale = scale;
  out.scaled_sum = scale * static_cast<float>(sum);
  out.minus_8_sum = static_cast<int32_t>(-8 * sum);
  out.minus_128_sum = static_cast<int32_t>(-128 * sum);
  out.half_sum[0] = first_half;
  out.half_sum[1] = last_half;
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
  uint32_t sum[2] = {0, 0};
  for (int half = 0; half < 2; ++half) {
    for (int i = 16 * half; i < 16 * half + 16; ++i) {
      q[i] = __builtin_bit_cast(uint32_t, x[i] * inverse + kRoundMagic) - kMagicBits;
      sum[half] += q[i];
    }
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
  store_sums<Simd>(out, scale, static_cast<int32_t>(sum[0]), static_cast<int32_t>(sum[1]));
}

template <class Simd>
void quantise_row(const float* x, int64_t cols, QuantBlock* out, int64_t stride) {
  for (int64_t k = 0; k < cols; k += 32, out += stride) Simd::quantise_block(x + k, *out);
}

}  // namespace pagoda::cpu

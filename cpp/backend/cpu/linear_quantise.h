// Quantisation of the input to blocks of integers, for the per-ISA files (see linear_tile.h). All give the same bits.
#pragma once

#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

constexpr float kMaxHigh = 127;
constexpr int kLowBits = 7;

/// What a block's values are multiplied with to become high bytes, and its scale. The scale is NaN for NaN and infinity.
/// Magnitudes below 2^-100 count as zero, so that the factor stays finite.
struct BlockScale {
  float inverse, scale;
};
template <class Simd>
[[gnu::always_inline]] inline BlockScale block_scale(uint32_t largest_bits) {
  constexpr uint32_t kInfinityBits = 0x7f800000u;
  constexpr float kTiny = 0x1p-100f;
  const float largest = __builtin_bit_cast(float, largest_bits);
  if (largest_bits >= kInfinityBits) return {0.0f, __builtin_nanf("")};
  if (largest < kTiny) return {0.0f, 0.0f};
  return {kMaxHigh / largest, largest / kMaxHigh};
}

/// Whether a block with this largest magnitude and sum of squares gets low bytes.
template <class Simd>
[[gnu::always_inline]] inline bool wants_low(uint32_t largest_bits, float energy, float share) {
  const float largest = __builtin_bit_cast(float, largest_bits);
  return share == 0.0f || largest * largest > share * energy;
}

template <class Simd>
[[gnu::always_inline]] inline void store_sums(QuantBytes& out, int32_t first_half, int32_t last_half) {
  const int64_t sum = int64_t{first_half} + last_half;  // in 64 bits: the sums of a block with a NaN can be any numbers
  out.minus_8_sum = static_cast<int32_t>(-8 * sum);
  out.minus_128_sum = static_cast<int32_t>(-128 * sum);
  out.half_sum[0] = first_half;
  out.half_sum[1] = last_half;
}

/// The fields that depend on both bytes.
template <class Simd>
[[gnu::always_inline]] inline void finish_block(QuantBlock& out, const QuantBytes& low, float scale, bool has_low) {
  const auto sum = [](const QuantBytes& bytes) { return int64_t{bytes.half_sum[0]} + bytes.half_sum[1]; };
  out.scale = scale;
  out.scaled_sum = scale * (static_cast<float>((sum(out) << kLowBits) + sum(low)) * 0x1p-7f);
  out.has_low = has_low;
}

/// The lowest bytes of four integers, the first lowest.
template <class Simd>
[[gnu::always_inline]] inline int32_t pack_quad(const uint32_t* four) {
  return static_cast<int32_t>((four[0] & 0xff) | (four[1] & 0xff) << 8 | (four[2] & 0xff) << 16 | four[3] << 24);
}

template <class Simd>
[[gnu::always_inline]] inline void store_bytes(QuantBytes& out, const uint32_t* bytes) {
  uint32_t sum[2] = {0, 0};
  for (int half = 0; half < 2; ++half) {
    for (int i = 16 * half; i < 16 * half + 16; ++i) sum[half] += bytes[i];
  }
  for (int j = 0; j < 8; ++j) out.quads[j] = pack_quad<Simd>(bytes + 4 * j);
  store_sums<Simd>(out, static_cast<int32_t>(sum[0]), static_cast<int32_t>(sum[1]));
}

/// One block in plain loops, which the compiler vectorises.
template <class Simd>
[[gnu::always_inline]] inline void quantise_plainly(const float* x, float share, QuantBlock& out, QuantBytes& low) {
  constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even
  constexpr int32_t kMagicBits = 0x4b400000;
  uint32_t largest = 0;  // magnitudes order like their bits, with NaN on top
  for (int i = 0; i < 32; ++i) {
    const uint32_t magnitude = __builtin_bit_cast(uint32_t, x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  float squares[16];
  for (int i = 0; i < 16; ++i) squares[i] = x[i] * x[i] + x[i + 16] * x[i + 16];
  for (int lanes = 8; lanes > 0; lanes /= 2) {
    for (int i = 0; i < lanes; ++i) squares[i] += squares[i + lanes];
  }
  const BlockScale found = block_scale<Simd>(largest);
  const bool has_low = wants_low<Simd>(largest, squares[0], share);
  const float inverse = has_low ? found.inverse * 128.0f : found.inverse;
  uint32_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = __builtin_bit_cast(uint32_t, x[i] * inverse + kRoundMagic) - kMagicBits;
  if (!has_low) {
    store_bytes<Simd>(out, q);
    return finish_block<Simd>(out, {}, found.scale, false);
  }
  uint32_t high[32];
  for (int i = 0; i < 32; ++i) {
    high[i] = static_cast<uint32_t>(static_cast<int32_t>(q[i] + 64) >> kLowBits);
    q[i] -= high[i] << kLowBits;
  }
  store_bytes<Simd>(out, high);
  store_bytes<Simd>(low, q);
  finish_block<Simd>(out, low, found.scale, true);
}

template <class Simd>
void quantise_row(const float* x, int64_t cols, float share, QuantBlock* out, QuantBytes* low, int64_t stride) {
  for (int64_t k = 0; k < cols; k += 32, out += stride, low += stride) Simd::quantise_block(x + k, share, *out, *low);
}

}  // namespace pagoda::cpu

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

/// What decides how a block is rounded.
struct BlockSize {
  uint32_t largest;  ///< bits of the largest magnitude; NaN is above infinity
  float energy;      ///< sum of squares
};

/// A value that holds a larger share of its block's energy is an outlier: one in eight blocks of SmolLM2 has some. With none
/// taken out its mean KL to the weights in f32 is 0.0025, with this share 0.0007, with a share of a half 0.0005 for 4 % of
/// time.
constexpr float kOutlierShare = 0.6f;

template <class Simd>
[[gnu::always_inline]] inline bool has_outlier(const BlockSize& size) {
  const float largest = __builtin_bit_cast(float, size.largest);
  return largest * largest > kOutlierShare * size.energy;
}

/// Copies block x[32], which begins at column `col`, to `rest` without its outliers, appends those to the list and returns the
/// size of what is left.
template <class Simd>
[[gnu::noinline]] BlockSize take_outliers(const float* x, BlockSize size, int64_t col, const QuantisedRow& to, float* rest) {
  for (int i = 0; i < 32; ++i) rest[i] = x[i];
  for (int taken = 0; taken < kMaxOutliers && has_outlier<Simd>(size); ++taken) {
    const int at = Simd::find(rest, size.largest);
    to.outliers[++to.outliers->col] = {static_cast<int32_t>(col) + at, to.row, rest[at]};
    rest[at] = 0;
    size = Simd::measure(rest);
  }
  return size;
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
[[gnu::always_inline]] inline void finish_block(QuantBlock& out, const QuantBytes& low, float scale) {
  const auto sum = [](const QuantBytes& bytes) { return int64_t{bytes.half_sum[0]} + bytes.half_sum[1]; };
  out.scale = scale;
  out.scaled_sum = scale * (static_cast<float>((sum(out) << kLowBits) + sum(low)) * 0x1p-7f);
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

/// The size of a block in plain loops, which the compiler vectorises.
template <class Simd>
[[gnu::always_inline]] inline BlockSize measure_plainly(const float* x) {
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
  return {largest, squares[0]};
}

/// The first place of a magnitude that the block has.
template <class Simd>
[[gnu::always_inline]] inline int find_plainly(const float* x, uint32_t magnitude) {
  int at = 0;
  while ((__builtin_bit_cast(uint32_t, x[at]) & 0x7fffffffu) != magnitude) ++at;
  return at;
}

/// Rounds one block in plain loops.
template <class Simd>
[[gnu::always_inline]] inline void quantise_plainly(const float* x, uint32_t largest, QuantBlock& out, QuantBytes* low) {
  constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even
  constexpr int32_t kMagicBits = 0x4b400000;
  const BlockScale found = block_scale<Simd>(largest);
  const float inverse = low ? found.inverse * 128.0f : found.inverse;
  uint32_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = __builtin_bit_cast(uint32_t, x[i] * inverse + kRoundMagic) - kMagicBits;
  if (!low) {
    store_bytes<Simd>(out, q);
    return finish_block<Simd>(out, {}, found.scale);
  }
  uint32_t high[32];
  for (int i = 0; i < 32; ++i) {
    high[i] = static_cast<uint32_t>(static_cast<int32_t>(q[i] + 64) >> kLowBits);
    q[i] -= high[i] << kLowBits;
  }
  store_bytes<Simd>(out, high);
  store_bytes<Simd>(*low, q);
  finish_block<Simd>(out, *low, found.scale);
}

template <class Simd>
void quantise_row(const float* x, int64_t cols, const QuantisedRow& to) {
  float rest[32];
  for (int64_t k = 0, at = 0; k < cols; k += 32, at += to.stride) {
    const float* block = x + k;
    BlockSize size = Simd::measure(block);
    if (to.outliers && has_outlier<Simd>(size)) {
      size = take_outliers<Simd>(block, size, k, to, rest);
      block = rest;
    }
    Simd::quantise_block(block, size.largest, to.blocks[at], to.low ? to.low + at : nullptr);
  }
}

}  // namespace pagoda::cpu

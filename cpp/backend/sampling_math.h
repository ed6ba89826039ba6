// The numbers behind the draw: ordered float keys and the 2^38 fixed-point mass exp(x - max).
// Only additions, multiplications and fused multiply-adds, so that every machine gets the same bits; sums of masses are integer
// sums and therefore exact in any order (docs/ARCHITECTURE.md, Sampling). Every backend must produce these bits.
#pragma once

#include <bit>
#include <cstdint>

#include "core/host_device.h"

namespace pagoda {

/// A larger float has a larger key; -0 and +0 share one. NaNs lie above the key of +infinity or below that of -infinity.
PAGODA_HOST_DEVICE inline __attribute__((always_inline)) uint32_t float_key(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value + 0.0f);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

/// 2^max(x, -120) for x <= 0 with a relative error below 3e-7.
PAGODA_HOST_DEVICE inline __attribute__((always_inline)) float exp2_fixed(float x) {
  // max(x, -120) on the bits: among floats <= 0 the more negative has the larger pattern, and an integer minimum vectorises
  const uint32_t x_bits = std::bit_cast<uint32_t>(x), lowest_bits = std::bit_cast<uint32_t>(-120.0f);
  const float clamped = std::bit_cast<float>(x_bits < lowest_bits ? x_bits : lowest_bits);
  // 2^x = 2^whole * 2^part with whole the nearest integer, found by truncation, which vectorises without assumptions about
  // traps
  const int32_t whole = static_cast<int32_t>(clamped - 0.5f);
  const float part = clamped - static_cast<float>(whole);  // in [-0.5, 0.5]
  float p = 1.5403530e-4f;
  p = __builtin_fmaf(p, part, 1.3333558e-3f);
  p = __builtin_fmaf(p, part, 9.6181291e-3f);
  p = __builtin_fmaf(p, part, 5.5504109e-2f);
  p = __builtin_fmaf(p, part, 0.24022651f);
  p = __builtin_fmaf(p, part, 0.69314718f);
  p = __builtin_fmaf(p, part, 1.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (static_cast<uint32_t>(whole) << 23));
}

/// exp(x - max) in units of 2^-38, rounded down, at most 2^38. `max` is finite and x <= max.
PAGODA_HOST_DEVICE inline __attribute__((always_inline)) uint64_t fixed_mass(float x, float max) {
  // floor(p * 2^38) out of p's own bits: integer shifts vectorise on every ISA, float to 64-bit integer does not.
  const uint32_t bits = std::bit_cast<uint32_t>(exp2_fixed((x - max) * 1.44269504f));
  const int32_t shift = static_cast<int32_t>(bits >> 23) - (127 + 23 - 38);
  const uint32_t left = static_cast<uint32_t>(shift > 0 ? shift : 0);
  const uint32_t right = static_cast<uint32_t>(shift < 0 ? -shift : 0);  // at most 120 - 15; from 24 on nothing is left
  const uint64_t mantissa = (bits & 0x7fffffu) | 0x800000u;
  return mantissa << left >> (right < 63 ? right : 63);
}

constexpr double kMassUnit = 0x1p-38;

}  // namespace pagoda

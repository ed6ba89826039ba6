// The numbers that 4-bit and 8-bit codes stand for in the formats that do not count evenly: iq4_nl, iq4_xs, mxfp4, f8_e4m3.
// Used by the decoders and encoders of cpp/io and by the backends' kernels.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace pagoda {

/// iq4_nl and iq4_xs: steps that are narrow around zero, where most weights lie.
inline constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// mxfp4: a float of 1 sign, 2 exponent and 1 mantissa bits, doubled so that it is an integer. Its negative zero counts as
/// zero.
inline constexpr std::array<int8_t, 16> kMxfp4Values = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// Half of the power of two that an mxfp4 exponent byte stands for: 2^(byte - 128). All 256 bytes are numbers.
inline float mxfp4_scale(uint8_t exponent) {
  const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : uint32_t{exponent - 1u} << 23;
  return std::bit_cast<float>(bits);
}

constexpr float kMaxE4m3 = 448;

/// A float of 1 sign, 4 exponent (bias 7) and 3 mantissa bits; 0x7f and 0xff are NaN, there is no infinity.
inline float e4m3_to_float(uint8_t code) {
  const uint32_t sign = uint32_t{code & 0x80u} << 24;
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude << 20) + 0x3c000000u));
  const float tiny = static_cast<float>(magnitude) * 0x1p-9f;  // zero or subnormal
  return sign ? -tiny : tiny;
}

/// The nearest code, ties to the even one; beyond 448 in magnitude it is 448, a NaN stays one.
inline uint8_t float_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude < 0x3c800000u) {  // subnormal in e4m3: let the FPU round to a multiple of 2^-9
    const float scaled = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(scaled) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded - 0x3c000000u) >> 20));
}

}  // namespace pagoda

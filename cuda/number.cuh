// The 16-bit and 8-bit floats of the kernels as bits, and 16-byte vectors of them as floats.
#pragma once

#include <cstdint>

#include "cuda/gpu.h"

namespace pagoda::cuda {

/// Storage of one bf16 and one f16: bits only, so that a wrong arithmetic on them does not compile.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
/// Storage of one fp8 of the kind e4m3 (no infinities, 0x7f and 0xff are NaN).
struct E4m3 {
  uint8_t bits;
};

__device__ __forceinline__ float to_float(Bf16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
__device__ __forceinline__ float to_float(F16 value) { return gpu::f16_to_float(value.bits); }
__device__ __forceinline__ float to_float(float value) { return value; }

/// f16 bits of an e4m3, exact.
__device__ __forceinline__ uint16_t e4m3_to_f16_bits(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7fu) return static_cast<uint16_t>(0x7e00u | (bits & 0x80u) << 8);
  // The same mantissa with the exponent's bias 7 taken for 15: 2^8 too small, which a product mends, subnormals included.
  const float value = gpu::f16_to_float(static_cast<uint16_t>(magnitude << 7)) * 256.0f;
  return static_cast<uint16_t>((gpu::pack_f16(value, 0.0f) & 0x7fffu) | (bits & 0x80u) << 8);
}
__device__ __forceinline__ float to_float(E4m3 value) { return gpu::f16_to_float(e4m3_to_f16_bits(value.bits)); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float value) {
  return {static_cast<uint16_t>(gpu::pack_bf16(value, 0.0f))};
}
template <>
__device__ __forceinline__ F16 from_float<F16>(float value) {
  return {static_cast<uint16_t>(gpu::pack_f16(value, 0.0f))};
}
/// Round to nearest even; past +-448 the largest finite value; NaN stays NaN.
template <>
__device__ __forceinline__ E4m3 from_float<E4m3>(float value) {
  const uint32_t bits = __float_as_uint(value), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint8_t>(sign | 0x7fu)};
  if (magnitude >= __float_as_uint(464.0f)) return {static_cast<uint8_t>(sign | 0x7eu)};
  if (magnitude < __float_as_uint(0.015625f)) {                   // below 2^-6 the steps are 2^-9: let the float unit round
    const float shifted = __uint_as_float(magnitude) + 16384.0f;  // whose last bit is 2^-9
    return {static_cast<uint8_t>(sign | (__float_as_uint(shifted) & 0xfu))};
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return {static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)))};
}

/// The two elements of a register, lower first.
__device__ __forceinline__ float2 unpack_bf16(uint32_t bits) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

/// Eight bf16 in 16 bytes.
__device__ __forceinline__ void unpack_bf16x8(const uint4& v, float (&out)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16(words[i]);
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ uint4 pack_bf16x8(const float (&in)[8]) {
  return make_uint4(gpu::pack_bf16(in[0], in[1]), gpu::pack_bf16(in[2], in[3]), gpu::pack_bf16(in[4], in[5]),
                    gpu::pack_bf16(in[6], in[7]));
}

}  // namespace pagoda::cuda

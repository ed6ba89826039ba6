// The type that unpacks weights for tiles. Include only from files compiled for AVX-512.
#pragma once

#include "backend/cpu/linear_avx512.h"

namespace pagoda::cpu {
namespace {

struct AmxSimd : Avx512 {
  template <int kBits>
  static __m512i shift(__m512i lanes) {
    return kBits > 0 ? _mm512_srli_epi32(lanes, kBits) : lanes;
  }
  /// Byte kByte of each lane as a number.
  template <int kByte>
  static __m512 byte(__m512i lanes) {
    return low_bytes(shift<8 * kByte>(lanes));
  }
  /// 1 + 2^-15 times byte kByte of each lane.
  template <int kByte>
  static __m512 byte_mantissa(__m512i lanes) {
    const __m512i moved = kByte == 0 ? _mm512_slli_epi32(lanes, 8) : _mm512_srli_epi32(lanes, kByte > 0 ? 8 * (kByte - 1) : 0);
    constexpr int kAndThenOr = 0xea;
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(moved, _mm512_set1_epi32(0xff00), _mm512_set1_epi32(0x3f800000), kAndThenOr));
  }
  /// table[i], for i the low four or five bits of each lane.
  template <int kEntries>
  static __m512 look_up_floats(const float* table, __m512i lanes) {
    if constexpr (kEntries == 16) return _mm512_permutexvar_ps(lanes, _mm512_load_ps(table));
    return _mm512_permutex2var_ps(_mm512_load_ps(table), lanes, _mm512_load_ps(table + 16));
  }
  /// 32 bf16 numbers as floats.
  static void widen_block(const uint16_t* from, float* to) {
    for (int i = 0; i < 32; i += 16) {
      const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
      _mm512_store_ps(to + i, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
    }
  }
  /// Rounded to nearest even, as round_row does.
  static void store_bf16(uint16_t* to, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
  }
  /// As store_pairs rounds.
  static __m512 round_to_bf16(__m512 v) {
    const __m512i up = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
    return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  }
  /// Sixteen pairs of bf16 numbers, rounded to the nearest, ties away from zero: vcvtne2ps2bf16 takes as long and leaves them
  /// apart.
  static void store_pairs(std::byte* to, __m512 first, __m512 second) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(first), half), 16);
    const __m512i high = _mm512_add_epi32(_mm512_castps_si512(second), half);
    _mm512_store_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, low, high));
  }
};

}  // namespace
}  // namespace pagoda::cpu

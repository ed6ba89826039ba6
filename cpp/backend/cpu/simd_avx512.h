// Sixteen float lanes in one AVX-512 register. Include only from *_avx512.cc.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace pagoda::cpu {
namespace {

/// The 16-lane type of the kernel templates; see simd.h for what the functions mean.
struct Avx512 {
  using Vec = __m512;
  using Mask = __mmask16;
  /// Register blocking of the attention kernels: rows x vectors of accumulators.
  static constexpr int kRows = 6;
  static constexpr int kVecs = 4;

  [[gnu::always_inline]] static inline Vec zero() { return _mm512_setzero_ps(); }
  [[gnu::always_inline]] static inline Vec set(float x) { return _mm512_set1_ps(x); }
  [[gnu::always_inline]] static inline Vec iota() {
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }

  [[gnu::always_inline]] static inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
  [[gnu::always_inline]] static inline Vec load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  [[gnu::always_inline]] static inline Vec load(const uint16_t* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static inline Vec load_n(const uint16_t* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p));
  }
  [[gnu::always_inline]] static inline Vec load(const int8_t* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  [[gnu::always_inline]] static inline Vec load_n(const int8_t* p, int n) { return widen(_mm_maskz_loadu_epi8(first(n), p)); }

  [[gnu::always_inline]] static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
  [[gnu::always_inline]] static inline void store_n(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
  [[gnu::always_inline]] static inline void store(uint16_t* p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a));
  }
  [[gnu::always_inline]] static inline void store_n(uint16_t* p, Vec a, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow(a));
  }
  [[gnu::always_inline]] static inline void store(int8_t* p, Vec a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
  }
  [[gnu::always_inline]] static inline void store_n(int8_t* p, Vec a, int n) {
    _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
  }

  [[gnu::always_inline]] static inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  [[gnu::always_inline]] static inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  [[gnu::always_inline]] static inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  [[gnu::always_inline]] static inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  [[gnu::always_inline]] static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }

  [[gnu::always_inline]] static inline Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  [[gnu::always_inline]] static inline Vec select(Mask m, Vec a, Vec b) { return _mm512_mask_blend_ps(m, b, a); }

  [[gnu::always_inline]] static inline Vec shift_to_exponent(Vec a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
  }

  /// Sixteen pairs of bf16 numbers.
  using Pairs = __m512bh;
  static constexpr bool kDots = true;
  static constexpr bool kTiles = false;
  [[gnu::always_inline]] static inline Pairs load_pairs(const void* p) { return pairs(_mm512_loadu_si512(p)); }
  [[gnu::always_inline]] static inline Pairs interleave(const uint16_t* a, const uint16_t* b) {
    return interleave(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  }
  [[gnu::always_inline]] static inline Pairs interleave_some(const uint16_t* a, const uint16_t* b, int n) {
    return interleave(_mm256_maskz_loadu_epi16(a ? first(n) : 0, a), _mm256_maskz_loadu_epi16(b ? first(n) : 0, b));
  }
  [[gnu::always_inline]] static inline Pairs interleave(const int8_t* a, const int8_t* b) {
    return interleave(load(a), load(b));
  }
  [[gnu::always_inline]] static inline Pairs interleave_some(const int8_t* a, const int8_t* b, int n) {
    return interleave(a ? load_n(a, n) : zero(), b ? load_n(b, n) : zero());
  }
  [[gnu::always_inline]] static inline void store_pairs(void* p, Pairs a) {
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(a));
  }
  [[gnu::always_inline]] static inline void store_pairs(void* p, Pairs a, int n) {
    _mm512_mask_storeu_epi32(p, first(n), reinterpret_cast<__m512i>(a));
  }
  [[gnu::always_inline]] static inline Pairs set_pair(const uint16_t* two) {
    int bits;
    __builtin_memcpy(&bits, two, sizeof bits);
    return pairs(_mm512_set1_epi32(bits));
  }
  [[gnu::always_inline]] static inline Vec dot(Pairs a, Pairs b, Vec c) { return _mm512_dpbf16_ps(c, a, b); }

  /// Stores a rounded to bf16 and returns what was stored. Subnormals become zero, as dot takes them.
  [[gnu::always_inline]] static inline Vec store_for_dots(uint16_t* p, Vec a) {
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
    return widen(bits);
  }

  [[gnu::always_inline]] static inline float first_lane(Vec a) { return _mm512_cvtss_f32(a); }
  [[gnu::always_inline]] static inline float sum(Vec a) {
    const __m256 v8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    const __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
    return _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
  }
  [[gnu::always_inline]] static inline float max_lane(Vec a) {
    const __m256 v8 = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 v4 = _mm_max_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    const __m128 v2 = _mm_max_ps(v4, _mm_movehl_ps(v4, v4));
    return _mm_cvtss_f32(_mm_max_ss(v2, _mm_movehdup_ps(v2)));
  }

 private:
  [[gnu::always_inline]] static inline Pairs pairs(__m512i bits) { return reinterpret_cast<Pairs>(bits); }
  [[gnu::always_inline]] static inline Pairs interleave(__m256i a, __m256i b) {
    return pairs(_mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16)));
  }
  /// Of numbers that bf16 holds exactly.
  [[gnu::always_inline]] static inline Pairs interleave(Vec a, Vec b) {
    return pairs(_mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(a), 16), _mm512_castps_si512(b)));
  }
  [[gnu::always_inline]] static inline Mask first(int n) { return static_cast<Mask>((1u << n) - 1u); }
  [[gnu::always_inline]] static inline Vec widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  [[gnu::always_inline]] static inline Vec widen(__m128i codes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)); }
  // In integers, because vcvtneps2bf16 flushes subnormals and AVX2 could not give the same bits.
  [[gnu::always_inline]] static inline __m256i narrow(Vec a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
  }
};

}  // namespace
}  // namespace pagoda::cpu

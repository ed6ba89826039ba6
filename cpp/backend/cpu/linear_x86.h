// What the tile kernels for AVX2 and AVX-512 have in common beside linear_tile.h: included by files compiled for them alone.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace pagoda::cpu {

/// The first and the second numbers of 16 pairs.
template <class Simd>
struct FloatPairs {
  typename Simd::Floats first, second;
};

/// The upper bytes of 16 lanes, f8_e4m3 numbers, as f16 bits: 2^-8 of their value, with the same bits for NaN only.
template <class Simd>
[[gnu::always_inline]] inline __m256i e4m3_halves(__m256i codes) {
  const __m256i halves = _mm256_and_si256(_mm256_srai_epi16(codes, 1), _mm256_set1_epi16(static_cast<short>(0xbf80)));
  const __m256i carry = _mm256_add_epi16(halves, _mm256_set1_epi16(0x80));  // into the top exponent bit for NaN alone
  return _mm256_or_si256(halves, _mm256_and_si256(carry, _mm256_set1_epi16(0x4000)));
}

/// 16 pairs of f8_e4m3 numbers as floats: 2^-8 of their values.
template <class Simd>
[[gnu::always_inline]] inline FloatPairs<Simd> widen_e4m3_pairs(const std::byte* from) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {Simd::widen_halves(e4m3_halves<Simd>(_mm256_slli_epi16(pairs, 8))), Simd::widen_halves(e4m3_halves<Simd>(pairs))};
}

/// BlockKernel's Sums where one instruction, Simd::dot, adds four products of bytes to 32 bits: codes of any width, unsigned,
/// cannot overflow it.
template <class Simd>
struct DotSums {
  static constexpr int kFold = 8;
  typename Simd::Ints sum;
  void start(int32_t offset) { sum = Simd::repeat(offset); }
  void add(typename Simd::Ints w, decltype(Simd::broadcast_quad(0)) x) { sum = Simd::dot(sum, w, x); }
  void fold() {}
  typename Simd::Floats finish(int32_t /*offset, there from the start*/) const { return Simd::to_floats(sum); }
};

}  // namespace pagoda::cpu

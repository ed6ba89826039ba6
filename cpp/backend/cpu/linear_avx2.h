// The type that the tile kernels for AVX2, FMA and F16C are written over (linear_tile.h): two ymm registers are a panel's 16
// columns. Included by the files that are compiled for them, each of which has a type of its own.
#pragma once

#include <immintrin.h>

#include "backend/cpu/linear_table.h"
#include "backend/cpu/linear_x86.h"

namespace pagoda::cpu {
namespace {

struct Avx2 {
  static constexpr int kTileRows = 4;
  static constexpr bool kHasPairs = false;
  static constexpr bool kRoundsToBf16 = false;
  struct Floats {
    __m256 a, b;
  };
  struct Ints {
    __m256i a, b;
  };
  struct Signed {
    Ints value, magnitude;
  };

  static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats fma(Floats x, Floats y, Floats z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static Floats mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static Ints load(const std::byte* from) {
    const __m256i* at = reinterpret_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  }
  static Floats load_f32(const std::byte* from) {
    const float* at = reinterpret_cast<const float*>(from);
    return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)};
  }
  static Floats load_f16(const std::byte* from) {
    const __m128i* at = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
  }
  static Floats load_bf16_first(const std::byte* from) {
    const Ints pairs = load(from);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(pairs.b, 16))};
  }
  static Floats load_bf16_second(const std::byte* from) {
    const Ints pairs = load(from);
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(pairs.a, high)), _mm256_castsi256_ps(_mm256_and_si256(pairs.b, high))};
  }
  /// The lanes of columns [first, first + 8) that lie below `width`.
  static __m256i mask(int width, int first) {
    const __m256i column = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(width), column);
  }
  static Floats load_part(const float* from, int width) {
    return {_mm256_maskload_ps(from, mask(width, 0)), _mm256_maskload_ps(from + 8, mask(width, 8))};
  }
  static void store(float* to, Floats value, int width) {
    _mm256_maskstore_ps(to, mask(width, 0), value.a);
    _mm256_maskstore_ps(to + 8, mask(width, 8), value.b);
  }

  static __m256i broadcast_quad(int32_t quad) { return _mm256_set1_epi32(quad); }
  static Ints load_raw(const std::byte* from) { return load(from); }
  /// The bits of `kMask` in each byte after a shift to the right, or to the left if negative.
  template <int kShift, int kMask>
  static Ints field(Ints raw) {
    if constexpr (kMask == 0xff) return raw;
    const __m256i mask = _mm256_set1_epi8(static_cast<char>(kMask));
    if constexpr (kShift > 0) raw = {_mm256_srli_epi16(raw.a, kShift), _mm256_srli_epi16(raw.b, kShift)};
    if constexpr (kShift < 0) raw = {_mm256_slli_epi16(raw.a, -kShift), _mm256_slli_epi16(raw.b, -kShift)};
    return {_mm256_and_si256(raw.a, mask), _mm256_and_si256(raw.b, mask)};
  }
  /// The bits of `mask` in each lane of four bytes after a shift to the right.
  static Ints bits_at(const std::byte* from, uint32_t shift, uint32_t mask) {
    const Ints raw = load(from);
    const __m128i count = _mm_cvtsi32_si128(static_cast<int>(shift));
    return and_lanes({_mm256_srl_epi32(raw.a, count), _mm256_srl_epi32(raw.b, count)}, mask);
  }
  static Ints and_lanes(Ints lanes, uint32_t mask) {
    const __m256i masks = _mm256_set1_epi32(static_cast<int>(mask));
    return {_mm256_and_si256(lanes.a, masks), _mm256_and_si256(lanes.b, masks)};
  }
  /// Of each lane of four bytes.
  static Floats low_bytes(Ints lanes) { return to_floats(and_lanes(lanes, 255)); }
  static Ints join(Ints x, Ints y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
  static Ints look_up(const uint8_t* table, Ints codes) {
    const __m256i values = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(values, codes.a), _mm256_shuffle_epi8(values, codes.b)};
  }
  /// Unsigned codes of fewer than 8 bits stay as they are. 8-bit ones would saturate maddubs (255 * 127 * 2), so their bias is
  /// taken off and the sign moves to the input: |w| * (sign(w) * x), at most 128 * 127 * 2.
  template <int kBits>
  static auto weights(Ints codes) {
    if constexpr (kBits < 8) {
      return codes;
    } else {
      const __m256i bias = _mm256_set1_epi8(-128);
      const Ints value = {_mm256_xor_si256(codes.a, bias), _mm256_xor_si256(codes.b, bias)};
      return Signed{value, {_mm256_abs_epi8(value.a), _mm256_abs_epi8(value.b)}};
    }
  }

  /// Two int16 per row for as many quads as cannot overflow them (the largest sums are 8 * 2 * 15 * 127, 4 * 2 * 31 * 127 and
  /// 2 * 2 * 63 * 127), then int32.
  template <int kBits>
  struct Sums {
    static constexpr int kFold = kBits <= 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
    Ints sum, total;
    void start(int32_t /*offset, added at the end*/) { sum = total = {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    void add(Ints w, __m256i quad) {
      sum = {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, quad)),
             _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, quad))};
      asm("" : "+x"(sum.a), "+x"(sum.b));  // or GCC adds the products later as a tree, with all of them in memory meanwhile
    }
    void add(const Signed& w, __m256i quad) {  // the sum is zero with kFold 1
      sum = {_mm256_maddubs_epi16(w.magnitude.a, _mm256_sign_epi8(quad, w.value.a)),
             _mm256_maddubs_epi16(w.magnitude.b, _mm256_sign_epi8(quad, w.value.b))};
    }
    void fold() {
      const __m256i ones = _mm256_set1_epi16(1);
      total = {_mm256_add_epi32(total.a, _mm256_madd_epi16(sum.a, ones)),
               _mm256_add_epi32(total.b, _mm256_madd_epi16(sum.b, ones))};
      sum = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    }
    Floats finish(int32_t offset) const {
      const __m256i bias = kBits < 8 ? _mm256_set1_epi32(offset) : _mm256_setzero_si256();
      return {_mm256_cvtepi32_ps(_mm256_add_epi32(bias, total.a)), _mm256_cvtepi32_ps(_mm256_add_epi32(bias, total.b))};
    }
  };

  static Floats to_floats(Ints v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
  static Ints load_u8(const std::byte* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  }
  static Floats load_i8(const std::byte* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return to_floats({_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))});
  }
  static Floats load_low_nibbles(const std::byte* from) {
    const Ints bytes = load_u8(from);
    const __m256i mask = _mm256_set1_epi32(15);
    return to_floats({_mm256_and_si256(bytes.a, mask), _mm256_and_si256(bytes.b, mask)});
  }
  static Floats load_high_nibbles(const std::byte* from) {
    const Ints bytes = load_u8(from);
    return to_floats({_mm256_srli_epi32(bytes.a, 4), _mm256_srli_epi32(bytes.b, 4)});
  }
  /// 2^(e - 128), zero for e < 2.
  static Floats load_exponents(const std::byte* from) {
    const __m128i e = _mm_subs_epu8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), _mm_set1_epi8(1));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(e), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(e, 8)), 23))};
  }

  static Floats widen_halves(__m256i bits) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
  }
  static auto load_e4m3_pairs(const std::byte* from) { return widen_e4m3_pairs<Avx2>(from); }

  static BlockSize measure(const float* x) { return measure_plainly<Avx2>(x); }
  static int find(const float* x, uint32_t magnitude) { return find_plainly<Avx2>(x, magnitude); }
  static void quantise_block(const float* x, uint32_t largest, QuantBlock& out, QuantBytes* low) {
    quantise_plainly<Avx2>(x, largest, out, low);
  }
};

}  // namespace
}  // namespace pagoda::cpu

// Tile kernels for AVX2, FMA and F16C: two ymm registers are a panel's 16 columns.
// Compiled with -mavx2 -mfma -mf16c; reached only through linear_kernels_avx2() on a CPU that has them.
#include <immintrin.h>

#include "backend/cpu/linear_tile.h"

namespace pagoda::cpu {
namespace {

struct Avx2 {
  static constexpr int kTileRows = 4;
  static constexpr bool kRoundsToBf16 = false;
  struct Floats {
    __m256 a, b;
  };
  struct Ints {
    __m256i a, b;
  };
  using Quads = Ints;
  struct Bytes {
    Ints value;      // signed
    Ints magnitude;  // unsigned
  };
  using Sum4 = Ints;  // two int16 per column: 8 quads of nibbles times int8 add up to at most 8 * 2 * 15 * 127 = 30480
  using Sum8 = Ints;

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
    return {_mm256_load_ps(at), _mm256_load_ps(at + 8)};
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

  static Quads load_quads(const std::byte* from) { return load(from); }
  static Quads low_nibbles(Quads v) {
    const __m256i low = _mm256_set1_epi8(15);
    return {_mm256_and_si256(v.a, low), _mm256_and_si256(v.b, low)};
  }
  static Quads high_nibbles(Quads v) { return low_nibbles({_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)}); }
  static Sum4 start4(int32_t /*offset, added at the end*/) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Sum4 dot4(Sum4 sum, Quads w, int32_t x) {
    const __m256i quad = _mm256_set1_epi32(x);
    return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, quad)), _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, quad))};
  }
  static Floats finish4(Sum4 high, Sum4 low, int32_t offset) {
    return {finish4(high.a, low.a, offset), finish4(high.b, low.b, offset)};
  }
  static __m256 finish4(__m256i high, __m256i low, int32_t offset) {
    const __m256i ones = _mm256_set1_epi16(1), weight = _mm256_set1_epi16(1 << kHighShift);
    const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(high, weight), _mm256_madd_epi16(low, ones));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_set1_epi32(offset), sum));
  }

  // Biased bytes would saturate maddubs (255 * 127 * 2), so the sign moves to the input: |w| * (sign(w) * x), at most 128 * 127
  // * 2.
  static Bytes load_bytes(const std::byte* from) {
    const Ints biased = load(from);
    const __m256i bias = _mm256_set1_epi8(-128);
    const Ints value = {_mm256_xor_si256(biased.a, bias), _mm256_xor_si256(biased.b, bias)};
    return {value, {_mm256_abs_epi8(value.a), _mm256_abs_epi8(value.b)}};
  }
  static Sum8 start8(int32_t /*offset: the bytes are signed again*/) {
    return {_mm256_setzero_si256(), _mm256_setzero_si256()};
  }
  static Sum8 dot8(Sum8 sum, const Bytes& w, int32_t x) {
    const __m256i quad = _mm256_set1_epi32(x);
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i a = _mm256_maddubs_epi16(w.magnitude.a, _mm256_sign_epi8(quad, w.value.a));
    const __m256i b = _mm256_maddubs_epi16(w.magnitude.b, _mm256_sign_epi8(quad, w.value.b));
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(a, ones)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(b, ones))};
  }
  static Floats finish8(Sum8 high, Sum8 low) {
    return {_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(high.a, kHighShift), low.a)),
            _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(high.b, kHighShift), low.b))};
  }

  static void quantise_block(const float* x, QuantBlock& out) { quantise_plainly<Avx2>(x, out); }
};

}  // namespace

const LinearKernels& linear_kernels_avx2() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx2>(Isa::avx2);
  return kKernels;
}

}  // namespace pagoda::cpu

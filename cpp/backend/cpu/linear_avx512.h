// The type that the tile kernels for AVX-512 with VNNI and BF16 are written over: one zmm register is a panel's 16 columns.
// Include only from files compiled for it.
#pragma once

#pragma GCC diagnostic ignored "-Wuninitialized"  // false positives inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include "backend/cpu/linear_table.h"
#include "backend/cpu/linear_x86.h"

namespace pagoda::cpu {
namespace {

struct Avx512 {
  /// Two panels by six rows: 24 registers for the running sums of a block and the accumulators. One panel at a time would be
  /// bound by loading the input, a vector for each product.
  static constexpr int kTileRows = 6;
  static constexpr bool kHasPairs = true;
  static constexpr bool kRoundsToBf16 = true;
  using Floats = __m512;
  using Ints = __m512i;

  static __mmask16 mask(int width) { return static_cast<__mmask16>((1u << width) - 1u); }

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats broadcast(float value) { return _mm512_set1_ps(value); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats load_f32(const std::byte* from) { return _mm512_loadu_ps(from); }
  static Floats load_f16(const std::byte* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Floats load_part(const float* from, int width) { return _mm512_maskz_loadu_ps(mask(width), from); }
  static void store(float* to, Floats value, int width) { _mm512_mask_storeu_ps(to, mask(width), value); }

  using Pairs = __m512bh;
  static Pairs load_bf16_pairs(const std::byte* from) { return reinterpret_cast<__m512bh>(_mm512_load_si512(from)); }
  static Pairs broadcast_pair(const uint16_t* x) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static Floats dot_bf16(Floats acc, Pairs w, Pairs x) { return _mm512_dpbf16_ps(acc, w, x); }

  static __m512i broadcast_quad(int32_t quad) { return _mm512_set1_epi32(quad); }
  static __m512i load_raw(const std::byte* from) { return _mm512_loadu_si512(from); }
  /// The bits of `kMask` in each byte after a shift to the right, or to the left if negative.
  template <int kShift, int kMask>
  static __m512i field(__m512i raw) {
    if constexpr (kMask == 0xff) return raw;
    if constexpr (kShift > 0) raw = _mm512_srli_epi16(raw, kShift);
    if constexpr (kShift < 0) raw = _mm512_slli_epi16(raw, -kShift);
    return _mm512_and_si512(raw, _mm512_set1_epi8(static_cast<char>(kMask)));
  }
  /// The bits of `mask` in each lane of four bytes after a shift to the right.
  static __m512i bits_at(const std::byte* from, uint32_t shift, uint32_t mask) {
    const __m128i count = _mm_cvtsi32_si128(static_cast<int>(shift));
    return _mm512_and_si512(_mm512_srl_epi32(load_raw(from), count), _mm512_set1_epi32(static_cast<int>(mask)));
  }
  /// Of each lane of four bytes.
  static Floats low_bytes(__m512i lanes) { return _mm512_cvtepi32_ps(_mm512_and_si512(lanes, _mm512_set1_epi32(255))); }
  static __m512i join(__m512i a, __m512i b) { return _mm512_or_si512(a, b); }
  static __m512i look_up(const uint8_t* table, __m512i codes) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), codes);
  }
  template <int kBits>
  static __m512i weights(__m512i codes) {
    return codes;
  }

  static Ints repeat(int32_t value) { return _mm512_set1_epi32(value); }
  static Ints dot(Ints sum, Ints w, Ints x) { return _mm512_dpbusd_epi32(sum, w, x); }
  static Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  template <int kBits>
  using Sums = DotSums<Avx512>;

  static __m512i load_u8(const std::byte* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Floats load_i8(const std::byte* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static Floats load_low_nibbles(const std::byte* from) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(load_u8(from), _mm512_set1_epi32(15)));
  }
  static Floats load_high_nibbles(const std::byte* from) { return _mm512_cvtepi32_ps(_mm512_srli_epi32(load_u8(from), 4)); }
  /// 2^(e - 128), zero for e < 2.
  static Floats load_exponents(const std::byte* from) {
    const __m128i e = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_subs_epu8(e, _mm_set1_epi8(1))), 23));
  }

  static Floats widen_halves(__m256i bits) { return _mm512_cvtph_ps(bits); }
  static auto load_e4m3_pairs(const std::byte* from) { return widen_e4m3_pairs<Avx512>(from); }

  static __m256i add_halves(__m512i v) { return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)); }
  /// Of lanes i and i + 8, then i and i + 4, i + 2, i + 1.
  static float sum_lanes(__m512 v) {
    const __m256 v8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    const __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
    return _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
  }
  /// 2 * 16 integers as bytes, and their sums.
  static void store_bytes(QuantBytes& out, __m512i a, __m512i b) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.quads), _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.quads + 4), _mm512_cvtepi32_epi8(b));
    const __m256i pairs = _mm256_hadd_epi32(add_halves(a), add_halves(b));
    const __m256i lanes = _mm256_hadd_epi32(pairs, pairs);
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    store_sums<Avx512>(out, _mm_cvtsi128_si32(sums), _mm_extract_epi32(sums, 1));
  }

  static BlockSize measure(const float* x) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const uint32_t largest = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                                                      _mm512_and_si512(_mm512_castps_si512(b), magnitude)));
    return {largest, sum_lanes(_mm512_add_ps(_mm512_mul_ps(a, a), _mm512_mul_ps(b, b)))};
  }
  static int find(const float* x, uint32_t magnitude) {
    const __m512i sought = _mm512_set1_epi32(static_cast<int>(magnitude)), bits = _mm512_set1_epi32(0x7fffffff);
    const uint32_t first = _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_loadu_si512(x), bits), sought);
    const uint32_t second = _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_loadu_si512(x + 16), bits), sought);
    return __builtin_ctz(first | second << 16);
  }
  static void quantise_block(const float* x, uint32_t largest, QuantBlock& out, QuantBytes* low) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const BlockScale found = block_scale<Avx512>(largest);
    if (low) {
      const __m512 inverse = _mm512_set1_ps(found.inverse * 128.0f);
      const __m512i q_a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), q_b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
      const __m512i high_a = high_bytes(q_a), high_b = high_bytes(q_b);
      store_bytes(out, high_a, high_b);
      store_bytes(*low, _mm512_sub_epi32(q_a, _mm512_slli_epi32(high_a, kLowBits)),
                  _mm512_sub_epi32(q_b, _mm512_slli_epi32(high_b, kLowBits)));
      return finish_block<Avx512>(out, *low, found.scale);
    }
    const __m512 inverse = _mm512_set1_ps(found.inverse);
    store_bytes(out, _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)));
    finish_block<Avx512>(out, {}, found.scale);
  }
  static __m512i high_bytes(__m512i q) { return _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), kLowBits); }

  /// Subnormals become zero here, as vdpbf16ps would take them anyway.
  static void round_row(const float* x, int64_t cols, uint16_t* out, int64_t stride) {
    int64_t k = 0;
    for (; k + 32 <= cols; k += 32, out += stride) round_block(_mm512_loadu_ps(x + k), _mm512_loadu_ps(x + k + 16), out);
    const int left = static_cast<int>(cols - k);
    if (left > 16) {
      round_block(_mm512_loadu_ps(x + k), load_part(x + k + 16, left - 16), out);
    } else if (left > 0) {
      round_block(load_part(x + k, left), zero(), out);
    }
  }
  static void round_block(__m512 first, __m512 last, uint16_t* out) {
    _mm512_storeu_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(last, first)));
  }
};

}  // namespace
}  // namespace pagoda::cpu

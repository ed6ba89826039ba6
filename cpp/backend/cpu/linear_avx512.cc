// Tile kernels for AVX-512 with VNNI and BF16: one zmm register is a panel's 16 columns.
// Compiled with -mavx512{f,bw,vl,dq,vnni,bf16}; reached only through linear_kernels_avx512() on a CPU that has them.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false positives inside GCC 12's own intrinsics

#include <immintrin.h>

#include "backend/cpu/linear_tile.h"

namespace pagoda::cpu {
namespace {

struct Avx512 {
  static constexpr int kTileRows = 8;
  static constexpr bool kRoundsToBf16 = true;
  using Floats = __m512;
  using Quads = __m512i;
  using Bytes = __m512i;
  using Sum4 = __m512i;
  using Sum8 = __m512i;

  static __mmask16 mask(int width) { return static_cast<__mmask16>((1u << width) - 1u); }

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats broadcast(float value) { return _mm512_set1_ps(value); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats load_f32(const std::byte* from) { return _mm512_load_ps(from); }
  static Floats load_f16(const std::byte* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Floats load_part(const float* from, int width) { return _mm512_maskz_loadu_ps(mask(width), from); }
  static void store(float* to, Floats value, int width) { _mm512_mask_storeu_ps(to, mask(width), value); }

  static __m512bh load_bf16_pairs(const std::byte* from) { return reinterpret_cast<__m512bh>(_mm512_load_si512(from)); }
  static Floats dot_bf16(Floats acc, __m512bh w, const uint16_t* x) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return _mm512_dpbf16_ps(acc, w, reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)));
  }

  static Quads load_quads(const std::byte* from) { return _mm512_loadu_si512(from); }
  static Quads low_nibbles(Quads v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static Quads high_nibbles(Quads v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
  static Sum4 start4(int32_t offset) { return _mm512_set1_epi32(offset); }
  static Sum4 dot4(Sum4 sum, Quads w, int32_t x) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)); }
  static Floats finish4(Sum4 high, Sum4 low, int32_t /*offset, added at the start*/) { return finish8(high, low); }

  static Bytes load_bytes(const std::byte* from) { return _mm512_loadu_si512(from); }
  static Sum8 start8(int32_t offset) { return _mm512_set1_epi32(offset); }
  static Sum8 dot8(Sum8 sum, Bytes w, int32_t x) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)); }
  static Floats finish8(Sum8 high, Sum8 low) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, kHighShift), low));
  }

  /// 16 integers as high and low bytes.
  static void store_bytes(__m512i q, int32_t* high, int32_t* low) {
    const __m512i q_high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), kHighShift);
    const __m512i q_low = _mm512_sub_epi32(q, _mm512_slli_epi32(q_high, kHighShift));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm512_cvtepi32_epi8(q_high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm512_cvtepi32_epi8(q_low));
  }

  static void quantise_block(const float* x, QuantBlock& out) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const uint32_t largest = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                                                      _mm512_and_si512(_mm512_castps_si512(b), magnitude)));
    float inverse;
    const float scale = block_scale<Avx512>(largest, inverse);
    const __m512i q_a = _mm512_cvtps_epi32(_mm512_mul_ps(a, _mm512_set1_ps(inverse)));
    const __m512i q_b = _mm512_cvtps_epi32(_mm512_mul_ps(b, _mm512_set1_ps(inverse)));
    store_bytes(q_a, out.high, out.low);
    store_bytes(q_b, out.high + 4, out.low + 4);
    store_sums<Avx512>(out, scale, _mm512_reduce_add_epi32(_mm512_add_epi32(q_a, q_b)));
  }

  /// Subnormals become zero here, as vdpbf16ps would take them anyway.
  static void round_row(const float* x, int64_t cols, uint16_t* out) {
    for (int64_t k = 0; k < cols; k += 16) {
      const int width = static_cast<int>(cols - k < 16 ? cols - k : 16);
      const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_setzero_ps(), load_part(x + k, width));
      const __mmask16 padded = mask((width + 1) & ~1);
      _mm256_mask_storeu_epi16(out + k, padded, _mm512_castsi512_si256(reinterpret_cast<__m512i>(pair)));
    }
  }
};

}  // namespace

const LinearKernels& linear_kernels_avx512() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx512>(Isa::avx512);
  return kKernels;
}

}  // namespace pagoda::cpu

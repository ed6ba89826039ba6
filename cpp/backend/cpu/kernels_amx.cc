// The kernels for AMX: attention with tiles, all others as with AVX-512.
#pragma GCC diagnostic ignored "-Wuninitialized"  // false positives inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/simd_avx512.h"

namespace pagoda::cpu {
namespace {

struct Amx : Avx512 {
  static constexpr bool kTiles = true;
  using Tiles = AmxTiles;
  [[gnu::always_inline]] static inline FloatMode flush_subnormals() { return cpu::flush_subnormals(); }
  [[gnu::always_inline]] static inline void restore_floats(FloatMode before) { cpu::restore_floats(before); }
  [[gnu::always_inline]] static inline Vec round_to_bf16(Vec a) {
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  /// 32 numbers as bf16.
  [[gnu::always_inline]] static inline void store_rounded(uint16_t* to, Vec first, Vec last) {
    _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(last, first)));
  }
};

}  // namespace

extern const Kernels kAvx512Kernels;

Kernels kernels_amx();
Kernels kernels_amx() {
  Kernels kernels = kAvx512Kernels;
  kernels.attention = attention_task<Amx>;
  return kernels;
}

}  // namespace pagoda::cpu

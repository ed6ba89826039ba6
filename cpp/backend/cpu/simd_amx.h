// What the attention kernels for AMX are written over, with the tile registers or their emulation. Include only from files
// compiled for AVX-512.
#pragma once

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/simd_avx512.h"

namespace pagoda::cpu {
namespace {

template <class TileRegisters>
struct Amx : Avx512 {
  static constexpr bool kTiles = true;
  using Tiles = TileRegisters;
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
}  // namespace pagoda::cpu

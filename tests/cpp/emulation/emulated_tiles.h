// The tile registers of AMX (cpp/backend/cpu/amx_tiles.h) in terms of AVX-512, for tests on a CPU that has none. Include only
// from files compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace pagoda::cpu {
namespace {

struct EmulatedTiles {
  struct Registers {
    alignas(64) std::byte tile[8][16][64];
    uint8_t rows[8];
  };
  static Registers& registers() {
    static thread_local Registers own;
    return own;
  }

  static void configure(const uint8_t (&rows)[8]) {
    std::memset(registers().tile, 0, sizeof registers().tile);
    std::memcpy(registers().rows, rows, sizeof rows);
  }
  static void release() { std::memset(&registers(), 0, sizeof registers()); }

  template <int kTile>
  static void load(const void* from, int64_t stride) {
    for (int r = 0; r < registers().rows[kTile]; ++r) {
      std::memcpy(registers().tile[kTile][r], static_cast<const std::byte*>(from) + r * stride, 64);
    }
  }
  template <int kTile>
  static void load_streamed(const void* from, int64_t stride) {
    load<kTile>(from, stride);
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    for (int r = 0; r < registers().rows[kTile]; ++r) {
      std::memcpy(static_cast<std::byte*>(to) + r * stride, registers().tile[kTile][r], 64);
    }
  }
  template <int kTile>
  static void zero() {
    std::memset(registers().tile[kTile], 0, sizeof registers().tile[kTile]);
  }
  template <int kC, int kA, int kB>
  static void add_product() {
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);  // subnormal numbers count as zero
    for (int r = 0; r < registers().rows[kC]; ++r) {
      __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
      for (int p = 0; p < registers().rows[kB]; ++p) {
        uint32_t pair;
        std::memcpy(&pair, &registers().tile[kA][r][4 * p], sizeof pair);
        const __m512i weights = _mm512_load_si512(registers().tile[kB][p]);
        even = _mm512_fmadd_ps(number(_mm512_set1_epi32(static_cast<int>(pair << 16))), number(_mm512_slli_epi32(weights, 16)),
                               even);
        const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
        odd = _mm512_fmadd_ps(number(_mm512_set1_epi32(static_cast<int>(pair & 0xffff0000))),
                              number(_mm512_and_si512(weights, upper)), odd);
      }
      std::byte* c = registers().tile[kC][r];
      _mm512_store_ps(c, _mm512_add_ps(_mm512_load_ps(c), _mm512_add_ps(even, odd)));
    }
    _mm_setcsr(saved);
  }
  static __m512 number(__m512i bits) { return _mm512_castsi512_ps(bits); }
};

}  // namespace
}  // namespace pagoda::cpu

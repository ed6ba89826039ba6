// The tile registers of AMX: eight of up to 16 rows of 64 bytes, which multiply pairs of bf16 numbers 16 x 16 x 32 at a time.
// In assembler, as the compilers' own functions do not say that they read and write memory. Include only from *_amx.cc.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace pagoda::cpu {
namespace {

/// What the kernels for tiles are written over. All of it belongs to the calling thread. A product adds to C [rows of A][16]
/// f32 the products of A [rows][16][2] and B [16][16][2] bf16: first the even and the odd elements of the pairs each in a
/// chain of fused multiply-adds of their own from zero, in order; then their sum is added to C. Rounded to nearest even,
/// subnormal numbers taken and left as zero (Intel SDM, TDPBF16PS).
struct AmxTiles {
  /// Tile t gets rows[t] rows of 64 bytes, 1 to 16. Contents are lost.
  [[gnu::always_inline]] static inline void configure(const uint8_t (&rows)[8]) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) config.row_bytes[t] = 64, config.rows[t] = rows[t];
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  /// The processor need not keep the registers any more.
  [[gnu::always_inline]] static inline void release() { asm volatile("tilerelease"); }

  /// Rows `stride` bytes apart.
  template <int kTile>
  [[gnu::always_inline]] static inline void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  /// The same for what is not read again soon: with a hint that keeps it out of the first-level cache.
  template <int kTile>
  [[gnu::always_inline]] static inline void load_streamed(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  [[gnu::always_inline]] static inline void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  [[gnu::always_inline]] static inline void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kC, int kA, int kB>
  [[gnu::always_inline]] static inline void add_product() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

/// How this thread's floats are rounded. Not an object with a destructor, for which the compiler would add code that other
/// files share.
using FloatMode = unsigned;
/// Lets subnormal numbers be taken and left as zero, as tiles do, until restore_floats(what it returns).
[[gnu::always_inline]] inline FloatMode flush_subnormals() {
  const FloatMode before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  return before;
}
[[gnu::always_inline]] inline void restore_floats(FloatMode before) { _mm_setcsr(before); }

}  // namespace
}  // namespace pagoda::cpu

// Compiled for AVX-512.
#pragma GCC diagnostic ignored "-Wuninitialized"  // false positives inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/simd_amx.h"
#include "emulation/emulated_amx.h"
#include "emulation/emulated_tiles.h"

namespace pagoda::cpu {

Kernels emulated_amx_attention() {
  Kernels emulated = kernels(Isa::avx512);
  emulated.attention_rows = kAttentionRows;
  emulated.attention = attention_task<Amx<EmulatedTiles>>;
  return emulated;
}

}  // namespace pagoda::cpu

// The kernels for AMX: attention with tiles, all others as with AVX-512.
#pragma GCC diagnostic ignored "-Wuninitialized"  // false positives inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/simd_amx.h"

namespace pagoda::cpu {
extern const Kernels kAvx512Kernels;

Kernels kernels_amx();
Kernels kernels_amx() {
  Kernels kernels = kAvx512Kernels;
  kernels.attention = attention_task<Amx<AmxTiles>>;
  kernels.attention_rows = kAttentionRows;
  return kernels;
}

}  // namespace pagoda::cpu

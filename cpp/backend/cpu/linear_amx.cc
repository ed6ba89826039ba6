// Tile kernels for AMX. Compiled for AVX-512; reached only through the functions below on a CPU that has both.
#include "backend/cpu/linear_amx.h"

#include "backend/cpu/linear_amx_simd.h"

namespace pagoda::cpu {

LinearKernels linear_kernels_amx(bool all) { return with_spans<AmxSimd, AmxTiles>(linear_kernels_avx512(), all); }

}  // namespace pagoda::cpu

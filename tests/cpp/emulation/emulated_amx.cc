// Compiled for AVX-512.
#include "emulation/emulated_amx.h"

#include "backend/cpu/linear_amx.h"
#include "backend/cpu/linear_amx_simd.h"
#include "emulation/emulated_tiles.h"

namespace pagoda::cpu {

const LinearKernels& emulated_amx_kernels() {
  static const LinearKernels kKernels = [] {
    LinearKernels kernels = with_spans<AmxSimd, EmulatedTiles>(linear_kernels_avx512(), true);
    kernels.precision = InputPrecision::bf16;
    return kernels;
  }();
  return kKernels;
}

}  // namespace pagoda::cpu

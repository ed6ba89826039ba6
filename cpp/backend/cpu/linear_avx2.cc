// Tile kernels for AVX2. Compiled with -mavx2 -mfma -mf16c; reached only through linear_kernels_avx2() on a CPU that has them.
#include "backend/cpu/linear_avx2.h"

namespace pagoda::cpu {

const LinearKernels& linear_kernels_avx2() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx2>(Isa::avx2);
  return kKernels;
}

}  // namespace pagoda::cpu

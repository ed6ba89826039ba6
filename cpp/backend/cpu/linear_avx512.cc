// Tile kernels for AVX-512 with VNNI and BF16.
// Compiled with -mavx512{f,bw,vl,dq,vnni,bf16}; reached only through linear_kernels_avx512() on a CPU that has them.
#include "backend/cpu/linear_avx512.h"

namespace pagoda::cpu {

const LinearKernels& linear_kernels_avx512() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx512>(Isa::avx512);
  return kKernels;
}

}  // namespace pagoda::cpu

// Picks the table of sampling passes for an ISA.
#include "backend/cpu/sampling_kernels.h"

namespace pagoda::cpu {

const SamplingKernels& sampling_kernels_portable();
#if defined(__x86_64__)
const SamplingKernels& sampling_kernels_avx2();
const SamplingKernels& sampling_kernels_avx512();
#endif

const SamplingKernels& sampling_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512 || isa == Isa::amx) return sampling_kernels_avx512();
  if (isa == Isa::avx2 || isa == Isa::avx2_vnni) return sampling_kernels_avx2();
#endif
  (void)isa;
  return sampling_kernels_portable();
}

}  // namespace pagoda::cpu

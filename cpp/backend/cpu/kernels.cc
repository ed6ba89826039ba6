// Picks the kernel table of an instruction set. The tables are defined in kernels_<isa>.cc, each compiled for its own
// instructions.
#include "backend/cpu/kernels.h"

#include "core/check.h"

namespace pagoda::cpu {

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
Kernels kernels_amx();

const Kernels& kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::amx) {
    static const Kernels amx_kernels = kernels_amx();
    return amx_kernels;
  }
  if (isa == Isa::avx512) return kAvx512Kernels;
  if (isa == Isa::avx2 || isa == Isa::avx2_vnni) return kAvx2Kernels;
#endif
  return isa == Isa::portable ? kPortableKernels : throw InternalError(str("no kernels for isa ", isa_name(isa)));
}

}  // namespace pagoda::cpu

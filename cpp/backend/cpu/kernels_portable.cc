// The baseline instances of the kernel templates.
#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/elementwise_kernel.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/norm_kernel.h"
#include "backend/cpu/rope_kernel.h"
#include "backend/cpu/simd_portable.h"

namespace pagoda::cpu {

extern const Kernels kPortableKernels;
const Kernels kPortableKernels{norm_row<Portable>,         add_norm_row<Portable>,         add_row<Portable>,
                               scale_row<Portable>,        gated_activation_row<Portable>, activation_row<Portable>,
                               rope_store_token<Portable>, attention_task<Portable>,       attention_merge_task<Portable>,
                               kLeastAttentionRows};

}  // namespace pagoda::cpu

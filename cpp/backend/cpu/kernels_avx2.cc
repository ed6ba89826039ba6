// The AVX2 instances of the kernel templates.
#if defined(__x86_64__)
#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/elementwise_kernel.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/norm_kernel.h"
#include "backend/cpu/rope_kernel.h"
#include "backend/cpu/simd_avx2.h"

namespace pagoda::cpu {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels{norm_row<Avx2>,         add_norm_row<Avx2>,         add_row<Avx2>,
                           scale_row<Avx2>,        gated_activation_row<Avx2>, activation_row<Avx2>,
                           rope_store_token<Avx2>, attention_task<Avx2>,       attention_merge_task<Avx2>,
                           kLeastAttentionRows};

}  // namespace pagoda::cpu
#endif

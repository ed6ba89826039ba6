// The AVX-512 instances of the kernel templates.
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false positives inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/elementwise_kernel.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/norm_kernel.h"
#include "backend/cpu/rope_kernel.h"
#include "backend/cpu/simd_avx512.h"

namespace pagoda::cpu {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels{norm_row<Avx512>,         add_norm_row<Avx512>,         add_row<Avx512>,
                             scale_row<Avx512>,        gated_activation_row<Avx512>, activation_row<Avx512>,
                             rope_store_token<Avx512>, attention_task<Avx512>,       attention_merge_task<Avx512>,
                             kLeastAttentionRows};

}  // namespace pagoda::cpu
#endif

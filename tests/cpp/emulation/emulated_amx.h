// The products and the attention for AMX (cpp/backend/cpu/*_amx.cc) with emulated tile registers.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

/// Needs a CPU with AVX-512.
const LinearKernels& emulated_amx_kernels();

/// All of AVX-512's but the attention.
Kernels emulated_amx_attention();

}  // namespace pagoda::cpu

// The products for AMX (cpp/backend/cpu/linear_amx.cc) with emulated tile registers.
#pragma once

#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

/// Needs a CPU with AVX-512.
const LinearKernels& emulated_amx_kernels();

}  // namespace pagoda::cpu

// The kernels for AVX2 with AVX-VNNI (cpp/backend/cpu/linear_avx2_vnni.cc) with that one instruction in terms of AVX2, for
// tests on a CPU that has no AVX-VNNI.
#pragma once

#include "backend/cpu/linear_kernels.h"

namespace pagoda::cpu {

/// Needs a CPU with AVX2.
const LinearKernels& emulated_vnni_kernels();

}  // namespace pagoda::cpu

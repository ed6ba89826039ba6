// Linked instead of cuda/ when the build has no CUDA kernels.
#include "backend/backend.h"
#include "core/check.h"

namespace pagoda {

bool cuda_built() { return false; }

std::unique_ptr<Backend> make_cuda_backend(int device_index) {
  throw DeviceError(str("device: cuda (index ", device_index,
                        ") was asked for, but this build has no CUDA kernels; use device: cpu, or build with PAGODA_CUDA=ON"));
}

}  // namespace pagoda

// Linked instead of cuda/ when the build has no CUDA kernels.
#include "backend/backend.h"
#include "backend/cuda_library.h"
#include "core/check.h"

namespace pagoda {
namespace {

[[noreturn]] void refuse() {
  throw DeviceError(
      "device: cuda was asked for, but this build has no CUDA kernels; use device: cpu, or build with PAGODA_CUDA=ON where "
      "nvcc is");
}

}  // namespace

CudaBuild cuda_build() { return CudaBuild::none; }
std::string cuda_unavailable() { return "this build has no CUDA kernels"; }
const BackendTraits& cuda_traits() { refuse(); }
DeviceInfo cuda_device_info(const CudaOptions&) { refuse(); }
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions&) { refuse(); }
std::string find_cuda_library(std::span<const std::string>) { refuse(); }

}  // namespace pagoda

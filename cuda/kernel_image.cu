// All kernels are compiled for the same list of architectures, but those of *_sm90a.cu: one of them answers for all.
#include <cuda_runtime.h>

#include "core/check.h"
#include "cuda/gpu.h"
#include "cuda/kernel_image.h"

namespace pagoda::cuda {
namespace {

__global__ void probed_kernel() { gpu::wait_for_grid(); }

}  // namespace

KernelImage find_kernel_image() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probed_kernel);
  if (error == cudaSuccess) return {{}, attributes.ptxVersion};
  cudaGetLastError();  // it would come out of the next call again
  return {
      str("this build has no kernels that run on it (", cudaGetErrorString(error),
          "); build for its architecture with PAGODA_CUDA_ARCHITECTURES, or update the driver if it is older than the build's "
          "CUDA toolkit"),
      0};
}

}  // namespace pagoda::cuda

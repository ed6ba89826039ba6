// Questions to the driver, each error in words.
#include "cuda/device.h"

#include <cuda_runtime.h>

#include "backend/cuda_library.h"
#include "core/check.h"
#include "cuda/cublaslt.h"
#include "cuda/kernel_image.h"

namespace pagoda {
namespace {

constexpr int kOldestCapability = 80;
constexpr int kHopper = 90;  ///< since which kernels can start early

/// The number of GPUs; if none, why.
int count_gpus(std::string& reason) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();  // it would come out of the next call again
  if (error == cudaErrorInsufficientDriver) {
    reason = "no NVIDIA driver is loaded, or it is older than this build's CUDA runtime";
  } else if (error == cudaErrorNoDevice || error == cudaSuccess) {
    reason = "the NVIDIA driver sees no GPU";
  } else {
    reason = str("the GPUs could not be counted: ", cudaGetErrorString(error));
  }
  return 0;
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, which, index), "asking the GPU for an attribute");
  return value;
}

int capability(int index) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, index) + attribute(cudaDevAttrComputeCapabilityMinor, index);
}

/// "9.0"
std::string dotted(int capability) { return str(capability / 10, ".", capability % 10); }

}  // namespace

std::string cuda_unavailable() {
  std::string reason;
  if (count_gpus(reason) == 0) return reason;
  if (capability(0) < kOldestCapability) return "the first GPU is older than compute capability 8.0, which the kernels need";
  const std::string missing = cuda::find_kernel_image().missing;
  return missing.empty() ? missing : str("the first GPU has compute capability ", dotted(capability(0)), ", and ", missing);
}

std::string find_cuda_library(std::span<const std::string> folders) {
  const cuda::CublasLt& library = cuda::load_cublaslt(folders);
  const size_t version = library.version();
  return str("cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100, ", ", library.path);
}

DeviceInfo cuda_device_info(const CudaOptions& options) { return cuda::open_gpu(options.device_index).info; }

namespace cuda {

Gpu open_gpu(int index) {
  std::string reason;
  const int count = count_gpus(reason);
  if (count == 0) throw DeviceError(str("device: cuda was asked for, but ", reason, "; use device: cpu"));
  if (index >= count)
    throw DeviceError(str("device: cuda:", index, " does not exist; there are ", count, " GPUs, from cuda:0"));
  check(cudaSetDevice(index), "choosing the GPU");
  const int compute_capability = capability(index);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "asking for the GPU's name");
  const std::string which = str("device: cuda:", index, " (", properties.name, ") has compute capability ");
  if (compute_capability < kOldestCapability) {
    throw DeviceError(str(which, dotted(compute_capability), "; the kernels need 8.0 or newer"));
  }
  const KernelImage image = find_kernel_image();
  if (!image.missing.empty()) throw DeviceError(str(which, dotted(compute_capability), ", and ", image.missing));
  Gpu gpu;
  check(cudaMemGetInfo(&gpu.info.available_bytes, &gpu.info.total_bytes), "reading the GPU's memory");
  gpu.info.name = properties.name;
  gpu.info.isa = "sm_" + std::to_string(compute_capability);
  gpu.queue.compute_capability = compute_capability;
  gpu.queue.num_multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
  gpu.queue.shared_bytes = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  gpu.queue.starts_early = image.capability >= kHopper;
  check(cudaDriverGetVersion(&gpu.driver_version), "asking for the driver's version");
  return gpu;
}

}  // namespace cuda
}  // namespace pagoda

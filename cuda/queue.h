// Where kernels go: a stream of one device, with the facts that launchers choose by; and the launch itself, through the one
// call that the emulation knows too.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/check.h"

namespace pagoda::cuda {

/// Throws DeviceError "<what>: <the error's text>" unless `error` is cudaSuccess.
inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw DeviceError(str(what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")"));
}

struct Queue {
  cudaStream_t stream = nullptr;
  int num_multiprocessors = 1;
  int compute_capability = 80;      ///< 10 * major + minor
  size_t shared_bytes = 48 * 1024;  ///< largest dynamic shared memory of a block
  bool starts_early = false;        ///< the kernels' code waits in gpu::wait_for_grid: it was compiled for sm_90 or newer
  /// Only orders of summation that do not depend on the number of rows.
  bool deterministic = true;
};

struct LaunchShape {
  dim3 blocks;
  dim3 threads;
  size_t shared_bytes = 0;
};

/// Starts `kernel` behind what the stream holds; where the queue starts early it then waits in gpu::wait_for_grid, which every
/// kernel calls. An empty grid is no launch. Throws DeviceError.
template <class... Parameters, class... Arguments>
void launch(const Queue& queue, const LaunchShape& shape, const char* name, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shape.blocks.x == 0 || shape.blocks.y == 0 || shape.blocks.z == 0) return;
  if (shape.shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
          name);
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = queue.stream;
  config.attrs = &early;
  config.numAttrs = queue.starts_early ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

/// ceil(a / b) for positive integers.
constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace pagoda::cuda

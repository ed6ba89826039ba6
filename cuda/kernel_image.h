// The code that this build has for a GPU. Used by open_gpu and cuda_unavailable.
#pragma once

#include <string>

namespace pagoda::cuda {

struct KernelImage {
  /// Why the current device cannot run the kernels, in words; empty if it can.
  std::string missing;
  /// Compute capability, 10 * major + minor, that the device's code was compiled for: what __CUDA_ARCH__ / 10 was. It can be
  /// lower than the device's own.
  int capability = 0;
};

/// Asks for the current device of this thread.
KernelImage find_kernel_image();

}  // namespace pagoda::cuda

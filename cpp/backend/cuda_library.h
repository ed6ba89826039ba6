// The library beside our own kernels that multiplies matrices on a GPU, cuBLASLt: asked for by `enginectl doctor`. Defined in
// cuda/, or in no_cuda.cc where the build has no CUDA kernels.
#pragma once

#include <span>
#include <string>

namespace pagoda {

/// Opens it, in `folders` or the loader's own places; its path and version in words. Throws DeviceError that says what to
/// install, or that there are no CUDA kernels which would need it.
std::string find_cuda_library(std::span<const std::string> folders);

}  // namespace pagoda

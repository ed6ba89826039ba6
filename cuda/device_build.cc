// What only a build for GPUs has; the emulation (tests/cuda/emulation) replaces this file.
#include "backend/backend.h"
#include "cuda/cublaslt.h"

namespace pagoda {

CudaBuild cuda_build() { return CudaBuild::hardware; }

}  // namespace pagoda

namespace pagoda::cuda {

const CublasLt& load_cublaslt(std::span<const std::string> folders) {
  static const CublasLt library = open_cublaslt(folders);
  return library;
}

}  // namespace pagoda::cuda

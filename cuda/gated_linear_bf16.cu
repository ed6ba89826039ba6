// linear_kernel.cuh for gate and up in bf16. Called by launch_linear.
#include "cuda/linear_kernel.cuh"

namespace pagoda::cuda {

void launch_gated_linear_bf16(const Queue& queue, LinearTile tile, const LinearJob& job) {
  launch_linear_format<MatrixFormat::bf16, true>(queue, tile, job);
}

}  // namespace pagoda::cuda

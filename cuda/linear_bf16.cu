// linear_kernel.cuh for weights in bf16. Called by launch_linear.
#include "cuda/linear_kernel.cuh"

namespace pagoda::cuda {

void launch_linear_bf16(const Queue& queue, LinearTile tile, const LinearJob& job) {
  launch_linear_format<MatrixFormat::bf16, false>(queue, tile, job);
}

}  // namespace pagoda::cuda

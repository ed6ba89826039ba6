// linear_kernel.cuh for weights in f8_blocks. Called by launch_linear.
#include "cuda/linear_kernel.cuh"

namespace pagoda::cuda {

void launch_linear_f8_blocks(const Queue& queue, LinearTile tile, const LinearJob& job) {
  launch_linear_format<MatrixFormat::f8_blocks, false>(queue, tile, job);
}

}  // namespace pagoda::cuda

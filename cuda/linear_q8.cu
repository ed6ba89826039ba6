// linear_kernel.cuh for weights in q8. Called by launch_linear.
#include "cuda/linear_kernel.cuh"

namespace pagoda::cuda {

void launch_linear_q8(const Queue& queue, LinearTile tile, const LinearJob& job) {
  launch_linear_format<MatrixFormat::q8, false>(queue, tile, job);
}

}  // namespace pagoda::cuda

// linear_kernel.cuh for weights in q4. Called by launch_linear.
#include "cuda/linear_kernel.cuh"

namespace pagoda::cuda {

void launch_linear_q4(const Queue& queue, LinearTile tile, const LinearJob& job) {
  launch_linear_format<MatrixFormat::q4, false>(queue, tile, job);
}

}  // namespace pagoda::cuda

// Products with the experts' matrices, one launch for all: the kernel and the bits of linear.cu. The grid has as many tiles as
// any routing could need; a block finds its expert and places from the routing on the device, and one past the last ends at
// once. Called by CudaBackend.
#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/linear.h"

namespace pagoda::cuda {

size_t grouped_linear_workspace(int64_t, int64_t, MatrixFormat, ExpertInput) { return 0; }

void grouped_linear(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& experts, const float* bias,
                    const Routing& routing, ExpertInput input, void*) {
  const int64_t num_pairs = routing.num_pairs();
  if (num_pairs == 0) return;
  LinearJob job = linear_job(out, x, experts, bias);
  job.rows = static_cast<int>(experts.rows / routing.num_experts);
  job.num_tokens = static_cast<int>(num_pairs);
  job.expert_start = routing.expert_start;
  job.num_experts = routing.num_experts;
  if (input == ExpertInput::by_token) {
    job.pairs = routing.pairs;
    job.top_k = routing.top_k;
  }
  const int64_t chosen = std::min<int64_t>(routing.num_experts, num_pairs);
  launch_linear(queue, choose_linear_tile(queue, job, chosen, divide_up(num_pairs, chosen)), job);
}

}  // namespace pagoda::cuda

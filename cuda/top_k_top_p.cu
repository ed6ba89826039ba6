// Top-k/top-p filtering of whole rows. One block per row. Bytes per row: V * 4 read once for the largest value, once for a
// total of masses, about three times for each filter and once more to write, from L2 after the first time; atomics on shared
// memory bound it. The sampler fuses these functions into its draw and as a rule runs them on a short list.
#include "cuda/softmax.cuh"
#include "cuda/top_k_top_p.cuh"
#include "cuda/top_k_top_p.h"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 16;

__global__ void __launch_bounds__(32 * kMaxWarps) filter_kernel(SampleWork work, const FilterParams* params) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  const RowSource source{raw_row(work, r)};
  const int32_t top_k = params[r].top_k < work.vocab ? params[r].top_k : 0;
  const Filters filters{top_k, params[r].top_p, row_max(source.row, space), 0};
  uint32_t threshold;
  find_threshold(source, filters, space, threshold);
  float* x = work.logits + r * work.stride;
  source.visit_all([&](uint32_t key, uint32_t token) {
    if (key < threshold) x[token] = -INFINITY;
  });
}

}  // namespace

void filter_top_k_top_p(const Queue& queue, const Tensor& logits, const FilterParams* params) {
  SampleWork work;
  work.logits = logits.as<float>();
  work.stride = logits.row_stride;
  work.vocab = static_cast<int>(logits.cols());
  work.aligned = sample_aligned(work.logits, work.stride);
  const unsigned threads = sample_threads(sample_chunks(work.vocab), kMaxWarps);
  launch(queue, {static_cast<unsigned>(logits.rows()), threads, sizeof(BlockSpace)}, "filter_top_k_top_p", filter_kernel, work,
         params);
}

}  // namespace pagoda::cuda

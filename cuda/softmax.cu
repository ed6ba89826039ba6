// Fused softmax-with-temperature. One block per row, one warp per chunk. Bytes per row: V * 4 read three times (largest value,
// total mass, values), the second and third time from L2 as a rule, and written once; about 40 instructions per value and pass
// bound it. The sampler itself never writes probabilities: it fuses these functions into its passes.
#include "cuda/softmax.cuh"
#include "cuda/softmax.h"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 16;

__global__ void __launch_bounds__(32 * kMaxWarps)
    softmax_kernel(float* out, int64_t out_stride, SampleWork work, const float* temperatures) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  RowView row = raw_row(work, r);
  row.temperature = Divisor(temperatures[r]);
  const float max = row_max(row, space);
  Mass own = 0;
  RowSource{row}.visit_all([&](uint32_t key, uint32_t) { own += fixed_mass(float_of_key(key), max); });
  const double total = static_cast<double>(block_total(own, space));
  RowSource{row}.visit_all([&](uint32_t key, uint32_t token) {
    const double mass = static_cast<double>(fixed_mass(float_of_key(key), max));
    out[r * out_stride + token] = static_cast<float>(mass / total);
  });
}

}  // namespace

void softmax(const Queue& queue, const Tensor& out, const Tensor& logits, const float* temperatures) {
  SampleWork work;
  work.logits = logits.as<float>();
  work.stride = logits.row_stride;
  work.vocab = static_cast<int>(logits.cols());
  work.aligned = sample_aligned(work.logits, work.stride);
  const unsigned threads = sample_threads(sample_chunks(work.vocab), kMaxWarps);
  launch(queue, {static_cast<unsigned>(logits.rows()), threads, sizeof(BlockSpace)}, "softmax", softmax_kernel, out.as<float>(),
         out.row_stride, work, temperatures);
}

}  // namespace pagoda::cuda

// Penalty application: edits and penalties scattered into the rows in place, and taken back for rows whose logprobs are asked
// for. One block per row, one thread per entry; 8 bytes of the list and one logit read and written (and one saved) per entry,
// so the latency of two dependent reads bounds it. First and, before the report, last of the sampler's passes.
#include "cuda/penalties.cuh"
#include "cuda/sample_block.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 8;

__global__ void __launch_bounds__(32 * kMaxWarps) apply_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  const int r = static_cast<int>(blockIdx.x);
  if (!work.tasks[r].edited()) return;
  const SampleRow& row = work.tasks[r].row;
  float* x = work.logits + r * work.stride;
  uint32_t bad_added = apply_edits(x, work, row);
  __syncthreads();
  bad_added += apply_counts(x, work, row);
  bad_added = warp_sum(bad_added);
  if (threadIdx.x % 32 == 0 && bad_added) atomicAdd(&work.states[r].bad_added, bad_added);
}

__global__ void __launch_bounds__(32 * kMaxWarps) undo_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  const int r = static_cast<int>(blockIdx.x);
  if (!work.tasks[r].edited() || !work.tasks[r].reports()) return;
  undo_edits_and_counts(work.logits + r * work.stride, work, work.tasks[r].row);
}

LaunchShape shape_of(const SampleWork& work) {
  return {static_cast<unsigned>(work.num_rows), sample_threads(work.num_chunks, kMaxWarps), 0};
}

}  // namespace

void apply_penalties(const Queue& queue, const SampleWork& work) {
  launch(queue, shape_of(work), "apply_penalties", apply_kernel, work);
}

void undo_penalties(const Queue& queue, const SampleWork& work) {
  launch(queue, shape_of(work), "undo_penalties", undo_kernel, work);
}

}  // namespace pagoda::cuda

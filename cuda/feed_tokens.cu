// Drawn tokens that stay on the device: kept after a step's sampling, put where the next step's token ids belong. One thread
// per row or token; bound by the launch. Called by Sampler.
#include "cuda/feed_tokens.h"
#include "cuda/gpu.h"

namespace pagoda::cuda {
namespace {

constexpr unsigned kThreads = 128;

/// An invalid row keeps token 0: its sequence ends, but the step behind it must not read outside of the embedding.
__global__ void keep_kernel(const SampleState* states, int num_rows, int32_t* drawn) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  const int r = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (r >= num_rows) return;
  const SampleState& state = states[r];
  drawn[r] = state.flags & kRowInvalid || state.token < 0 ? 0 : state.token;
}

__global__ void feed_kernel(int32_t* ids, const int32_t* sources, const int32_t* drawn, int64_t n) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t < n && sources[t] >= 0) ids[t] = drawn[sources[t]];
}

unsigned blocks_for(int64_t n) { return static_cast<unsigned>(divide_up(n, kThreads)); }

}  // namespace

void keep_tokens(const Queue& queue, const SampleWork& work, int32_t* drawn) {
  launch(queue, {blocks_for(work.num_rows), kThreads}, "keep_tokens", keep_kernel, work.states, work.num_rows, drawn);
}

void feed_tokens(const Queue& queue, int32_t* ids, const int32_t* sources, const int32_t* drawn, int64_t n) {
  launch(queue, {blocks_for(n), kThreads}, "feed_tokens", feed_kernel, ids, sources, drawn, n);
}

}  // namespace pagoda::cuda

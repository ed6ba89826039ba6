// The sampler's last passes, of rows whose logprobs are asked for: the host makes them from the integers and raw floats found
// here. report: one warp per chunk, V * 4 bytes per row read once; masses bound it as in sample_mass.cu. rank_tops: one block
// per row over a list of the best raw logits, bound by latency; a row with more equal logits than the list holds is read a few
// times.
#include "cuda/sample_list.cuh"
#include "cuda/softmax.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr unsigned kMaxCandidates = 256;

__device__ __forceinline__ bool is_reported(const SampleWork& work, int r) {
  return work.tasks[r].reports() && !(work.states[r].flags & kRowInvalid);
}

__global__ void __launch_bounds__(32 * kMaxWarps) report_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  const int r = static_cast<int>(blockIdx.y);
  if (!is_reported(work, r)) return;
  SampleState& state = work.states[r];
  const RowView row = raw_row(work, r);
  const float max = state.raw_max, logit = row.x[state.token];
  const bool lists = work.tasks[r].row.num_top > 0;
  const float list_bound = lists ? bound_of_key(state.top_key) : INFINITY;
  const auto capacity = static_cast<unsigned>(work.list_capacity);
  const ListWriter writer{*reinterpret_cast<ListSpace*>(shared), work.list + static_cast<int64_t>(r) * capacity,
                          &state.top_size, capacity};
  writer.open();
  Mass mass = 0;
  unsigned above = 0;
  const int warps = static_cast<int>(blockDim.x / 32), step = static_cast<int>(gridDim.x) * warps;
  for (int chunk = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x / 32); chunk < work.num_chunks;
       chunk += step) {
    mass += chunk_mass(row, chunk, max, -INFINITY, [&](int token, const float (&values)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) above += values[i] > logit ? 1 : 0;
      writer.add(token, values, list_bound, row.vocab);
    });
  }
  above = warp_sum(above);
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&state.raw_mass, mass);
    atomicAdd(&state.num_above, above);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) state.raw_logit = logit;
  writer.close();
}

/// Shared memory of rank_tops.
struct TopSpace {
  BlockSpace block;
  Mass candidates[kMaxCandidates];
  unsigned size;
};

/// Gathers the source's entries that `keeps`, at most kMaxCandidates; seen by the block.
template <class Source, class Keeps>
__device__ void gather_candidates(const Source& source, TopSpace& space, Keeps keeps) {
  if (threadIdx.x == 0) space.size = 0;
  __syncthreads();
  source.visit_all([&](uint32_t key, uint32_t token) {
    if (keeps(key, token)) space.candidates[atomicAdd(&space.size, 1u)] = list_entry(key, static_cast<int>(token));
  });
  __syncthreads();
}

/// Exactly the `count` best, however many there are: all above the last one's key, and the lowest tokens that have this key.
template <class Source>
__device__ void select_candidates(const Source& source, unsigned count, TopSpace& space) {
  const Selection<unsigned> last = select_key<unsigned>(0, ~0u, count, space.block, [&](auto add) {
    source.visit_all([&](uint32_t key, uint32_t) { add(key, [] { return 1u; }); });
  });
  const Selection<unsigned> tie = select_key<unsigned>(0, ~0u, count - last.above, space.block, [&](auto add) {
    source.visit_all([&](uint32_t key, uint32_t token) {
      if (key == last.key) add(~token, [] { return 1u; });
    });
  });
  gather_candidates(source, space,
                    [&](uint32_t key, uint32_t token) { return key > last.key || (key == last.key && ~token >= tie.key); });
}

__global__ void __launch_bounds__(32 * kMaxWarps) rank_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  TopSpace& space = *reinterpret_cast<TopSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  const int num_top = work.tasks[r].row.num_top;
  if (num_top <= 0 || !is_reported(work, r)) return;
  const unsigned count = static_cast<unsigned>(min(num_top, work.vocab)), size = work.states[r].top_size;
  const ListSource list{work.list + static_cast<int64_t>(r) * work.list_capacity, static_cast<int>(size), 0};
  if (size <= kMaxCandidates && list.size <= work.list_capacity) {
    gather_candidates(list, space, [](uint32_t, uint32_t) { return true; });
  } else if (list.size <= work.list_capacity) {
    select_candidates(list, count, space);
  } else {
    select_candidates(RowSource{raw_row(work, r)}, count, space);
  }
  const float* x = work.logits + r * work.stride;
  TopEntry* tops = work.tops + static_cast<int64_t>(r) * work.max_top;
  for (unsigned i = threadIdx.x; i < space.size; i += blockDim.x) {
    const Mass entry = space.candidates[i];
    unsigned better = 0;
    for (unsigned j = 0; j < space.size; ++j) better += space.candidates[j] > entry ? 1 : 0;
    if (better >= count) continue;
    const auto token = static_cast<int32_t>(~static_cast<uint32_t>(entry));
    tops[better] = {token, x[token]};
  }
}

}  // namespace

void report_rows(const Queue& queue, const SampleWork& work) {
  const unsigned threads = sample_threads(work.num_chunks, kMaxWarps);
  const unsigned slices = sample_slices(queue, work, static_cast<int>(threads / 32));
  launch(queue, {dim3(slices, static_cast<unsigned>(work.num_rows)), threads, sizeof(ListSpace)}, "report_rows", report_kernel,
         work);
}

void rank_tops(const Queue& queue, const SampleWork& work) {
  launch(queue, {static_cast<unsigned>(work.num_rows), sample_threads(work.num_chunks, kMaxWarps), sizeof(TopSpace)},
         "rank_tops", rank_kernel, work);
}

}  // namespace pagoda::cuda

// The sampler's third pass: one token for every row that is drawn. draw: one block of 16 warps per row; reads V / 1024 masses
// and one chunk, or a list of a few thousand entries: latency bounds it. draw_overflowing: one block of 32 warps for each row
// whose filters keep more than the list holds; reads the row about five times, bound by the arithmetic of masses on one
// multiprocessor.
#include "cuda/draw.cuh"
#include "cuda/top_k_top_p.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kMaxOverflowWarps = 32;

__device__ __forceinline__ Mass* sums_of(const SampleWork& work, int r) {
  return work.sums + static_cast<int64_t>(r) * work.num_chunks;
}

__device__ __forceinline__ Filters filters_of(const SampleWork& work, int r, BlockSpace& space) {
  const SampleState& state = work.states[r];
  const Mass total = state.flags & kRowSums ? total_of_chunks(sums_of(work, r), work.num_chunks, space) : 0;
  return {work.tasks[r].row.top_k, work.tasks[r].row.top_p, state.max, total};
}

/// -1: the list is too short.
__device__ int32_t draw_listed(const SampleWork& work, int r, BlockSpace& space) {
  const SampleState& state = work.states[r];
  const SampleRow& params = work.tasks[r].row;
  const ListSource list{work.list + static_cast<int64_t>(r) * work.list_capacity, static_cast<int>(state.list_size),
                        state.list_key};
  if (!(state.flags & kRowLists) || list.size > work.list_capacity) return -1;
  uint32_t threshold;
  if (!find_threshold(list, filters_of(work, r, space), space, threshold)) return -1;
  threshold = max(threshold, float_key(min_p_value(params, state.max)));
  return draw_from_list(list, work.vocab, params, state.max, threshold, space);
}

__global__ void __launch_bounds__(32 * kMaxWarps, 2) draw_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  SampleState& state = work.states[r];
  const uint32_t flags = state.flags;
  if (!(flags & kRowDraws)) return;
  const SampleTask& task = work.tasks[r];
  const RowView row = adjusted_row(work, r);
  int32_t token;
  if (state.max == INFINITY) {
    token = first_infinite(row, space);
  } else if (task.filters()) {
    token = draw_listed(work, r, space);
  } else {
    token = draw_from_chunks(row, task.row, state.max, min_p_value(task.row, state.max), sums_of(work, r), space);
  }
  __syncthreads();
  if (threadIdx.x) return;
  state.token = token;
  if (token < 0) state.flags = flags | kRowOverflows;
}

__global__ void __launch_bounds__(32 * kMaxOverflowWarps) draw_overflowing_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  SampleState& state = work.states[r];
  if (!(state.flags & kRowOverflows)) return;
  const RowView row = adjusted_row(work, r);
  const SampleRow& params = work.tasks[r].row;
  uint32_t threshold;
  find_threshold(RowSource{row}, filters_of(work, r, space), space, threshold);
  const float least = fmaxf(bound_of_key(threshold), min_p_value(params, state.max));
  sum_chunks(row, state.max, least, sums_of(work, r));
  const int32_t token = draw_from_chunks(row, params, state.max, least, sums_of(work, r), space);
  if (threadIdx.x == 0) state.token = token;
}

}  // namespace

void draw_rows(const Queue& queue, const SampleWork& work) {
  launch(queue, {static_cast<unsigned>(work.num_rows), sample_threads(work.num_chunks, kMaxWarps), sizeof(BlockSpace)},
         "draw_rows", draw_kernel, work);
}

void draw_overflowing_rows(const Queue& queue, const SampleWork& work) {
  launch(queue, {static_cast<unsigned>(work.num_rows), sample_threads(work.num_chunks, kMaxOverflowWarps), sizeof(BlockSpace)},
         "draw_overflowing_rows", draw_overflowing_kernel, work);
}

}  // namespace pagoda::cuda

// The sampler's second pass, of rows that are drawn: mass of every chunk and a list of the likely tokens. One warp per chunk,
// blocks of 8 warps, several blocks per row when rows are few. V * 4 bytes per row read once; where masses are needed (not for
// top-k, which only lists) their 38 instructions per value (46 with a temperature) bound it, about as long as the memory does.
#include "cuda/sample_list.cuh"
#include "cuda/softmax.cuh"
#include "cuda/top_k_top_p.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 8;

__global__ void __launch_bounds__(32 * kMaxWarps) sum_kernel(SampleWork work) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  const int r = static_cast<int>(blockIdx.y);
  SampleState& state = work.states[r];
  const uint32_t flags = state.flags;
  if (!(flags & (kRowSums | kRowLists))) return;
  const SampleTask& task = work.tasks[r];
  const RowView row = adjusted_row(work, r);
  const float max = state.max;
  const float list_bound = flags & kRowLists ? bound_of_key(state.list_key) : INFINITY;
  const float threshold = !(flags & kRowSums) ? INFINITY : task.filters() ? -INFINITY : min_p_value(task.row, max);
  const auto capacity = static_cast<unsigned>(work.list_capacity);
  const ListWriter writer{*reinterpret_cast<ListSpace*>(shared), work.list + static_cast<int64_t>(r) * capacity,
                          &state.list_size, capacity};
  writer.open();
  Mass* sums = work.sums + static_cast<int64_t>(r) * work.num_chunks;
  const int warps = static_cast<int>(blockDim.x / 32), step = static_cast<int>(gridDim.x) * warps;
  for (int chunk = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x / 32); chunk < work.num_chunks;
       chunk += step) {
    const Mass sum = chunk_mass(row, chunk, max, threshold,
                                [&](int token, const float (&values)[4]) { writer.add(token, values, list_bound, row.vocab); });
    if (threadIdx.x % 32 == 0) sums[chunk] = sum;
  }
  writer.close();
}

}  // namespace

void sum_rows(const Queue& queue, const SampleWork& work) {
  const unsigned threads = sample_threads(work.num_chunks, kMaxWarps);
  const unsigned slices = sample_slices(queue, work, static_cast<int>(threads / 32));
  launch(queue, {dim3(slices, static_cast<unsigned>(work.num_rows)), threads, sizeof(ListSpace)}, "sum_rows", sum_kernel, work);
}

}  // namespace pagoda::cuda

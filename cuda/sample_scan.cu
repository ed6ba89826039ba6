// The sampler's first pass, and what follows from it. scan: one warp per chunk, blocks of 8 warps, several blocks per row when
// rows are few; V * 4 bytes per row read once, about 10 instructions per value: memory bounds it. Leaves the largest value, its
// lowest token, faults, and the largest key of every 128 tokens. plan: one block per row over V / 128 keys, bound by latency:
// decides what the next passes do; a greedy row ends here.
#include "cuda/top_k_top_p.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kMaxWarps = 8;

/// Whether the row's raw logits are scanned, after the values that were drawn from.
__device__ __forceinline__ bool scans_raw(const SampleTask& task, const SampleState& state) {
  return task.reports() && task.adjusted() && !(state.flags & kRowInvalid);
}

__global__ void __launch_bounds__(32 * kMaxWarps) scan_kernel(SampleWork work, SampleValues values) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  const int r = static_cast<int>(blockIdx.y);
  SampleState& state = work.states[r];
  const bool raw = values == SampleValues::raw;
  if (raw && !scans_raw(work.tasks[r], state)) return;
  const RowView row = raw ? raw_row(work, r) : adjusted_row(work, r);
  const int warps = static_cast<int>(blockDim.x / 32), warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint32_t* groups = work.groups + static_cast<int64_t>(r) * work.num_chunks * kChunkGroups;
  Mass best = 0;
  unsigned bad = 0;
  const int step = static_cast<int>(gridDim.x) * warps;
  for (int chunk = static_cast<int>(blockIdx.x) * warps + warp; chunk < work.num_chunks; chunk += step) {
    uint32_t largest = 0;
    int at = 0;
    visit_chunk<4>(row, chunk, [&](int token, const float (&logits)[4]) {
      const unsigned allowed = row.mask ? row.allowed(token) : ~0u;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t key = float_key(logits[i]), seen = allowed >> i & 1u ? key : kLowestKey;
        bad += is_bad_key(key) ? 1 : 0;
        at = seen > largest ? token + i : at;
        largest = max(largest, seen);
      }
    });
    best = max(best, list_entry(largest, at));
    largest = max(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = max(largest, __shfl_xor_sync(~0u, largest, 2));
    if (lane % 4 == 0) groups[chunk * kChunkGroups + lane / 4] = largest;
  }
  best = warp_max(best);
  bad = warp_sum(bad);
  if (lane) return;
  atomicMax(&state.best[raw], best);
  if (bad && !raw) atomicAdd(&state.num_bad, bad);
}

/// A lower bound of the `rank`-th largest value of the row, found in the groups: `rank` groups hold a value as large as it.
__device__ uint32_t bound_of_rank(const SampleWork& work, int r, int rank, BlockSpace& space) {
  const int num_groups = work.num_chunks * kChunkGroups;
  const uint32_t* groups = work.groups + static_cast<int64_t>(r) * num_groups;
  if (rank == 0 || rank > num_groups) return 0;
  return select_key<unsigned>(0, ~0u, static_cast<unsigned>(rank), space,
                              [&](auto add) {
                                for (int i = static_cast<int>(threadIdx.x); i < num_groups; i += static_cast<int>(blockDim.x)) {
                                  add(groups[i], [] { return 1u; });
                                }
                              })
      .key;
}

/// What a row that is drawn needs: fills max, list_key and flags.
__device__ void plan_draw(const SampleWork& work, int r, float best, BlockSpace& space, SampleState& plan) {
  const SampleTask& task = work.tasks[r];
  const RowView row = adjusted_row(work, r);
  plan.max = float_of_key(float_key(row.temperature.quotient(best)));
  plan.flags = plan.max == -INFINITY ? kRowInvalid : kRowDraws;
  if (plan.max == INFINITY || plan.max == -INFINITY) return;
  if (task.row.top_k <= 0) plan.flags |= kRowSums;
  if (!task.filters() || task.list_rank < 0) return;
  plan.flags |= kRowLists;
  const uint32_t bound = bound_of_rank(work, r, task.list_rank, space);
  plan.list_key = max(bound > kLowestKey ? float_key(row.temperature.quotient(float_of_key(bound))) : 0, kLowestKey + 1);
  if (task.row.top_k <= 0) plan.list_key = max(plan.list_key, float_key(plan.max - task.list_depth));
}

__global__ void __launch_bounds__(32 * kMaxWarps) plan_kernel(SampleWork work, SampleValues values) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  const SampleTask& task = work.tasks[r];
  SampleState& state = work.states[r];
  const bool raw = values == SampleValues::raw;
  if (raw && !scans_raw(task, state)) return;
  SampleState plan{};
  plan.token = -1;
  const auto best_key = static_cast<uint32_t>(state.best[raw] >> 32);
  const float best = float_of_key(best_key);
  if (!raw) {
    if (state.num_bad != state.bad_added || best_key <= kLowestKey) {
      plan.flags = kRowInvalid;
    } else if (task.forced()) {
      plan.token = task.row.forced_token;
    } else if (task.row.temperature == 0) {
      plan.token = static_cast<int32_t>(~static_cast<uint32_t>(state.best[0]));
    } else {
      plan_draw(work, r, best, space, plan);
    }
  }
  const bool reports = task.reports() && (raw || !task.adjusted());
  if (reports && task.row.num_top > 0) plan.top_key = bound_of_rank(work, r, task.row.num_top, space);
  if (threadIdx.x) return;
  if (reports) {
    state.raw_max = best;
    state.top_key = plan.top_key;
  }
  if (raw) return;
  state.max = plan.max;
  state.token = plan.token;
  state.list_key = plan.list_key;
  state.flags = plan.flags;
}

}  // namespace

void scan_rows(const Queue& queue, const SampleWork& work, SampleValues values) {
  const unsigned threads = sample_threads(work.num_chunks, kMaxWarps);
  const unsigned slices = sample_slices(queue, work, static_cast<int>(threads / 32));
  launch(queue, {dim3(slices, static_cast<unsigned>(work.num_rows)), threads, 0}, "scan_rows", scan_kernel, work, values);
}

void plan_rows(const Queue& queue, const SampleWork& work, SampleValues values) {
  launch(queue, {static_cast<unsigned>(work.num_rows), sample_threads(work.num_chunks, kMaxWarps), sizeof(BlockSpace)},
         "plan_rows", plan_kernel, work, values);
}

}  // namespace pagoda::cuda

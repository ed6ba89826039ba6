// Sums and searches over a block of any number of whole warps, for the sampler. All weights are integers, so no result depends
// on the number of threads or on their order.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/sample_work.h"

namespace pagoda::cuda {

constexpr int kSelectBins = 2048;

/// Shared memory of the functions below.
struct BlockSpace {
  Mass bins[kSelectBins];  // of select_key; as unsigned when it counts
  Mass sums[32];           // of each warp
  Mass below;
  int index;
};

template <class T>
__device__ __forceinline__ T* space_of(BlockSpace& space) {
  return reinterpret_cast<T*>(space.sums);
}

/// The sum over the block, in every thread.
template <class Weight>
__device__ __forceinline__ Weight block_total(Weight value, BlockSpace& space) {
  Weight* sums = space_of<Weight>(space);
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  Weight total = 0;
#pragma unroll 1
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += sums[warp];
  __syncthreads();
  return total;
}

/// The largest value in the block, in every thread.
__device__ __forceinline__ uint32_t block_largest(uint32_t value, BlockSpace& space) {
  uint32_t* values = space_of<uint32_t>(space);
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value;
  __syncthreads();
  uint32_t largest = 0;
#pragma unroll 1
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) largest = max(largest, values[warp]);
  __syncthreads();
  return largest;
}

/// Where a running sum passes a target.
template <class Weight>
struct Crossing {
  int index;     ///< -1: nowhere
  Weight below;  ///< the sum before it
};

/// The first of `count` items at which the sum of weight_at(0), weight_at(1), ... is larger than `target`.
template <class Weight, class WeightAt>
__device__ Crossing<Weight> find_crossing(int count, Weight target, BlockSpace& space, WeightAt weight_at) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int part = (count + threads - 1) / threads;
  const int begin = min(count, thread * part), end = min(count, begin + part);
  Weight own = 0;
#pragma unroll 1
  for (int i = begin; i < end; ++i) own += weight_at(i);
  Weight before = own;  // first the sum up to this thread of the warp, then of the block, then without its own
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const Weight other = __shfl_up_sync(~0u, before, offset);
    if (lane >= offset) before += other;
  }
  Weight* sums = space_of<Weight>(space);
  if (lane == 31) sums[thread / 32] = before;
  if (thread == 0) space.index = -1;
  __syncthreads();
#pragma unroll 1
  for (int warp = 0; warp < thread / 32; ++warp) before += sums[warp];
  before -= own;
  if (before <= target && target - before < own) {
    int i = begin;
#pragma unroll 1
    for (Weight weight = weight_at(i); target - before >= weight; weight = weight_at(i)) {
      before += weight;
      ++i;
    }
    space.index = i;
    space.below = before;
  }
  __syncthreads();
  const Crossing<Weight> crossing{space.index, static_cast<Weight>(space.below)};
  __syncthreads();
  return crossing;
}

/// The last bin from which up the bins' sum is larger than `target`, as kSelectBins - 1 - bin.
template <class Weight>
__device__ Crossing<Weight> find_bin(Weight target, BlockSpace& space) {
  const Weight* bins = reinterpret_cast<const Weight*>(space.bins);
  return find_crossing<Weight>(kSelectBins, target, space, [&](int i) { return bins[kSelectBins - 1 - i]; });
}

/// What select_key has found.
template <class Weight>
struct Selection {
  uint32_t key;
  Weight above;  ///< weight of what is larger
  bool reached;  ///< false: all of the range weighs too little; the rest is meaningless
};

/// The largest key in [low, high] such that what lies from it up to `high` weighs at least `need` (> 0). visit(add) must call
/// add(key, weigh) for every candidate, each in one thread; those outside of the range do not count and are not weighed. It is
/// called once for every 11 bits of the range.
template <class Weight, class Visit>
__device__ Selection<Weight> select_key(uint32_t low, uint32_t high, Weight need, BlockSpace& space, Visit visit) {
  Weight* bins = reinterpret_cast<Weight*>(space.bins);
  Weight above = 0;
  for (;;) {
    const uint32_t span = high - low;
    const int shift = max(0, 21 - __clz(static_cast<int>(span)));
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kSelectBins; i += static_cast<int>(blockDim.x)) bins[i] = 0;
    __syncthreads();
    visit([&](uint32_t key, auto weigh) {
      if (key - low <= span) atomicAdd(&bins[(key - low) >> shift], static_cast<Weight>(weigh()));
    });
    __syncthreads();
    const Crossing<Weight> crossing = find_bin<Weight>(need - above - 1, space);
    if (crossing.index < 0) return {low, above, false};
    above += crossing.below;
    low += static_cast<uint32_t>(kSelectBins - 1 - crossing.index) << shift;
    high = min(high, low + ((1u << shift) - 1));
    if (shift == 0) return {low, above, true};
  }
}

}  // namespace pagoda::cuda

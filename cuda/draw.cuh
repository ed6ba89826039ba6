// The draw: a uniform integer below the mass that is kept, and the token in whose share of the running sum, in token order, it
// falls. By a block that has the row for itself.
#pragma once

#include "core/philox.h"
#include "cuda/softmax.cuh"

namespace pagoda::cuda {

__device__ __forceinline__ Mass draw_below(const SampleRow& row, Mass total) {
  return mul_high(philox(row.key, row.counter), total);
}

/// From the mass of every chunk: finds the chunk, then reads it once more.
__device__ __forceinline__ int32_t draw_from_chunks(const RowView& row, const SampleRow& params, float max, float threshold,
                                                    const Mass* sums, BlockSpace& space) {
  const Mass target = draw_below(params, total_of_chunks(sums, row.num_chunks(), space));
  const Crossing<Mass> chunk = find_crossing<Mass>(row.num_chunks(), target, space, [&](int i) { return sums[i]; });
  const int first = chunk.index * kSampleChunk, count = min(kSampleChunk, row.vocab - first);
  const Crossing<Mass> token = find_crossing<Mass>(count, target - chunk.below, space, [&](int i) -> Mass {
    const float value = row.value(first + i);
    return value >= threshold ? fixed_mass(value, max) : 0;
  });
  return first + token.index;
}

/// From a list that holds all that is kept, in no order.
__device__ __forceinline__ int32_t draw_from_list(const ListSource& list, int vocab, const SampleRow& params, float max,
                                                  uint32_t threshold, BlockSpace& space) {
  Mass own = 0;
  list.visit_all([&](uint32_t key, uint32_t) {
    if (key >= threshold) own += fixed_mass(float_of_key(key), max);
  });
  const Mass target = draw_below(params, block_total(own, space));
  // The lowest token up to which more than the target is kept: tokens count down from the end of the range.
  const Selection<Mass> last = select_key<Mass>(~static_cast<uint32_t>(vocab - 1), ~0u, target + 1, space, [&](auto add) {
    list.visit_all([&](uint32_t key, uint32_t token) {
      if (key >= threshold) add(~token, [&]() -> Mass { return fixed_mass(float_of_key(key), max); });
    });
  });
  return static_cast<int32_t>(~last.key);
}

/// The lowest token with an infinite value; there is one.
__device__ __forceinline__ int32_t first_infinite(const RowView& row, BlockSpace& space) {
  uint32_t largest = 0;
  RowSource{row}.visit_all([&](uint32_t key, uint32_t token) {
    if (key == kInfinityKey) largest = max(largest, ~token);
  });
  return static_cast<int32_t>(~block_largest(largest, space));
}

}  // namespace pagoda::cuda

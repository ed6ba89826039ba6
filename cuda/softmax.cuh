// The softmax of the sampler: integer masses 2^38 * exp(x / temperature - max) and their sums over chunks and rows.
#pragma once

#include "cuda/sample_block.cuh"
#include "cuda/sample_row.cuh"

namespace pagoda::cuda {

/// Mass of the chunk's values from `threshold` up (+infinity: of none, at no cost), in every lane of the warp. visit(token,
/// values) sees them all, four at a time, -infinity past the vocabulary's end.
template <class Visit>
__device__ __forceinline__ Mass chunk_mass(const RowView& row, int chunk, float max, float threshold, Visit visit) {
  Mass sum = 0;
  visit_chunk<4>(row, chunk, [&](int token, float (&values)[4]) {
    row.adjust(token, values);
    if (fmaxf(fmaxf(values[0], values[1]), fmaxf(values[2], values[3])) >= threshold) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum += fixed_mass(values[i] >= threshold ? values[i] : -INFINITY, max);
    }
    visit(token, values);
  });
  return warp_sum(sum);
}

/// sums[chunk] = mass of each chunk's values from `threshold` up, by a block that has the row for itself; seen by the block.
__device__ __forceinline__ void sum_chunks(const RowView& row, float max, float threshold, Mass* sums) {
  const int warps = static_cast<int>(blockDim.x / 32);
  for (int chunk = static_cast<int>(threadIdx.x / 32); chunk < row.num_chunks(); chunk += warps) {
    const Mass sum = chunk_mass(row, chunk, max, threshold, [](int, float (&)[4]) {});
    if (threadIdx.x % 32 == 0) sums[chunk] = sum;
  }
  __syncthreads();
}

/// The sum of the chunks' masses, in every thread of the block.
__device__ __forceinline__ Mass total_of_chunks(const Mass* sums, int num_chunks, BlockSpace& space) {
  Mass total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < num_chunks; i += static_cast<int>(blockDim.x)) total += sums[i];
  return block_total(total, space);
}

/// The largest value of the row, by a block that has it for itself.
__device__ __forceinline__ float row_max(const RowView& row, BlockSpace& space) {
  uint32_t largest = 0;
  RowSource{row}.visit_all([&](uint32_t key, uint32_t) { largest = max(largest, key); });
  return float_of_key(block_largest(largest, space));
}

}  // namespace pagoda::cuda

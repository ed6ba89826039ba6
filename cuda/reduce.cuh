// Sums and maxima over a warp and a block in one fixed order: the same bits for any schedule and batch.
#pragma once

#include "cuda/gpu.h"

namespace pagoda::cuda {

/// The sum over the 32 lanes, in every lane: a butterfly, so that all lanes hold the same bits.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

template <class T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) {
    const T other = __shfl_xor_sync(~0u, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/// The sum over a block of kWarps full warps, in every thread. `scratch` is shared memory for kWarps values; it may be used
/// again after the return.
template <int kWarps, class T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = scratch[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}

template <int kWarps, class T>
__device__ __forceinline__ T block_max(T value, T* scratch) {
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  T best = scratch[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) best = scratch[warp] > best ? scratch[warp] : best;
  __syncthreads();
  return best;
}

}  // namespace pagoda::cuda

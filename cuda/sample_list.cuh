// A row's list of its largest values, written by several blocks at once: each gathers in shared memory and appends in one
// piece.
#pragma once

#include "cuda/sample_row.cuh"

namespace pagoda::cuda {

constexpr unsigned kBlockList = 1024;  ///< entries that a block gathers

/// Shared memory of a block that adds to a list.
struct ListSpace {
  Mass entries[kBlockList];
  unsigned size;
  unsigned begin;
};

/// Bit i: whether values[i] is at least `bound`.
__device__ __forceinline__ unsigned at_least(const float (&values)[4], float bound) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) bits |= values[i] >= bound ? 1u << i : 0u;
  return bits;
}

/// All threads of the block call open and close; between them each adds what it finds. `size` counts all that is added, in any
/// number of blocks; what exceeds the capacity is not stored.
struct ListWriter {
  ListSpace& space;
  Mass* list;
  uint32_t* size;
  unsigned capacity;

  __device__ __forceinline__ void open() const {
    if (threadIdx.x == 0) space.size = 0;
    __syncthreads();
  }

  /// Those of four tokens' values that are at least `bound`.
  __device__ __forceinline__ void add(int token, const float (&values)[4], float bound, int vocab) const {
    if (fmaxf(fmaxf(values[0], values[1]), fmaxf(values[2], values[3])) < bound) return;
#pragma unroll 1
    for (unsigned rest = at_least(values, bound); rest; rest &= rest - 1) {
      const int i = __ffs(static_cast<int>(rest)) - 1;
      const float value = i == 0 ? values[0] : i == 1 ? values[1] : i == 2 ? values[2] : values[3];
      if (token + i < vocab) add(float_key(value), token + i);
    }
  }

  __device__ __forceinline__ void add(uint32_t key, int token) const {
    const unsigned at = atomicAdd(&space.size, 1u);
    if (at < kBlockList) {
      space.entries[at] = list_entry(key, token);
    } else {
      const unsigned place = atomicAdd(size, 1u);
      if (place < capacity) list[place] = list_entry(key, token);
    }
  }

  __device__ __forceinline__ void close() const {
    __syncthreads();
    const unsigned gathered = min(space.size, kBlockList);
    if (threadIdx.x == 0) space.begin = atomicAdd(size, gathered);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < gathered && space.begin + i < capacity; i += blockDim.x) {
      list[space.begin + i] = space.entries[i];
    }
  }
};

}  // namespace pagoda::cuda

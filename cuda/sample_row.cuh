// One row of logits as the sampler's kernels read it: chunk by chunk, 64 bytes of a lane in flight, with mask and temperature
// applied on the way. Used by all sample*.cu.
#pragma once

#include "backend/sampling_math.h"
#include "cuda/gpu.h"
#include "cuda/sample_work.h"

namespace pagoda::cuda {

constexpr uint32_t kLowestKey = 0x007fffffu;    ///< float_key(-infinity)
constexpr uint32_t kInfinityKey = 0xff800000u;  ///< float_key(+infinity)

/// The float that has this key; of the zeros +0.
__device__ __forceinline__ float float_of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

/// NaN or +infinity.
__device__ __forceinline__ bool is_bad_key(uint32_t key) { return key - kLowestKey >= kInfinityKey - kLowestKey; }

/// Whole warps read chunks of it.
struct RowView {
  const float* x;        // [vocab]
  const uint32_t* mask;  // null: all tokens are allowed
  int vocab;
  float temperature;  // 1: values stay as they are
  bool vectored;

  __device__ __forceinline__ float value(float logit, bool allowed) const {
    if (!allowed) return -INFINITY;
    return temperature == 1 ? logit : logit / temperature;
  }

  /// Logits of four tokens from `token` up, a multiple of 4; undefined past the end.
  __device__ __forceinline__ float4 load(int token) const {
    float4 v{};
    if (vectored) {
      if (token < vocab) v = *reinterpret_cast<const float4*>(x + token);
    } else {
      if (token < vocab) v.x = x[token];
      if (token + 1 < vocab) v.y = x[token + 1];
      if (token + 2 < vocab) v.z = x[token + 2];
      if (token + 3 < vocab) v.w = x[token + 3];
    }
    return v;
  }
  /// Bits of the four tokens, lowest first.
  __device__ __forceinline__ unsigned allowed(int token) const {
    return mask && token < vocab ? mask[token >> 5] >> (token & 31) : ~0u;
  }
  __device__ __forceinline__ int num_chunks() const { return (vocab + kSampleChunk - 1) / kSampleChunk; }
};

/// Row r with the values that are drawn from.
__device__ __forceinline__ RowView adjusted_row(const SampleWork& work, int r) {
  const SampleRow& row = work.tasks[r].row;
  return {work.logits + r * work.stride, row.mask < 0 ? nullptr : work.masks + static_cast<int64_t>(row.mask) * work.mask_words,
          work.vocab, row.temperature == 0 ? 1.0f : row.temperature, work.vectored};
}
__device__ __forceinline__ RowView raw_row(const SampleWork& work, int r) {
  return {work.logits + r * work.stride, nullptr, work.vocab, 1.0f, work.vectored};
}

/// Calls visit(token, logit, allowed) for the lane's part of the chunk, ascending; kLoads quadruples are read ahead.
template <int kLoads, class Visit>
__device__ __forceinline__ void visit_chunk(const RowView& row, int chunk, Visit visit) {
  const int first = chunk * kSampleChunk + 4 * static_cast<int>(threadIdx.x % 32);
#pragma unroll 1
  for (int part = first; part < first + kSampleChunk; part += 128 * kLoads) {
    float4 logits[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) logits[i] = row.load(part + 128 * i);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = part + 128 * i;
      const unsigned allowed = row.allowed(token);
      if (token < row.vocab) visit(token, logits[i].x, (allowed & 1u) != 0);
      if (token + 1 < row.vocab) visit(token + 1, logits[i].y, (allowed & 2u) != 0);
      if (token + 2 < row.vocab) visit(token + 2, logits[i].z, (allowed & 4u) != 0);
      if (token + 3 < row.vocab) visit(token + 3, logits[i].w, (allowed & 8u) != 0);
    }
  }
}

/// Calls visit(key, token) for every value of the row, each in one thread of the block.
struct RowSource {
  RowView row;

  template <class Visit>
  __device__ __forceinline__ void visit_all(Visit visit) const {
    const int warps = static_cast<int>(blockDim.x / 32);
    for (int chunk = static_cast<int>(threadIdx.x / 32); chunk < row.num_chunks(); chunk += warps) {
      visit_chunk<2>(row, chunk, [&](int token, float logit, bool allowed) {
        visit(float_key(row.value(logit, allowed)), static_cast<uint32_t>(token));
      });
    }
  }
};

/// The same for the entries of a list.
struct ListSource {
  const Mass* entries;
  int size;
  uint32_t low;  // no key is smaller

  template <class Visit>
  __device__ __forceinline__ void visit_all(Visit visit) const {
    for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
      const Mass entry = entries[i];
      visit(static_cast<uint32_t>(entry >> 32), ~static_cast<uint32_t>(entry));
    }
  }
};

__device__ __forceinline__ Mass list_entry(uint32_t key, int token) { return Mass{key} << 32 | ~static_cast<uint32_t>(token); }

}  // namespace pagoda::cuda

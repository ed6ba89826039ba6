// One row of logits as the sampler's kernels read it: chunk by chunk, 64 bytes of a lane in flight, with temperature and mask
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
/// The value from which up keys are at least `key`: what has no smaller key is not smaller than it.
__device__ __forceinline__ float bound_of_key(uint32_t key) { return float_of_key(max(key, kLowestKey)); }

/// NaN or +infinity.
__device__ __forceinline__ bool is_bad_key(uint32_t key) { return key - kLowestKey >= kInfinityKey - kLowestKey; }

/// Division by one number, with the bits of the division, in five multiply-adds as a rule.
class Divisor {
 public:
  __device__ __forceinline__ explicit Divisor(float divisor)
      : divisor_(divisor), reciprocal_(is_moderate(divisor) ? 1.0f / divisor : 0.0f) {}

  __device__ __forceinline__ bool is_one() const { return divisor_ == 1; }
  __device__ __forceinline__ float quotient(float x) const { return is_one() ? x : x / divisor_; }

  __device__ __forceinline__ void divide(float (&x)[4]) const {
    if (reciprocal_ != 0 && is_moderate(x[0]) && is_moderate(x[1]) && is_moderate(x[2]) && is_moderate(x[3])) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = moderate_quotient(x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] /= divisor_;
    }
  }

 private:
  /// In [2^-60, 2^60): then no step of moderate_quotient leaves the normal numbers.
  static __device__ __forceinline__ bool is_moderate(float x) {
    return (__float_as_uint(x) & 0x7fffffffu) - (67u << 23) < 120u << 23;
  }
  /// The first correction leaves an error below one unit in the last place, so that the second remainder is exact; with the
  /// reciprocal correctly rounded, the last sum is then the rounded quotient (Markstein's theorem).
  __device__ __forceinline__ float moderate_quotient(float x) const {
    const float estimate = x * reciprocal_;
    const float close = fmaf(fmaf(-estimate, divisor_, x), reciprocal_, estimate);
    return fmaf(fmaf(-close, divisor_, x), reciprocal_, close);
  }

  float divisor_, reciprocal_;
};

/// Whole warps read chunks of it.
struct RowView {
  const float* x;        // [vocab]
  const uint32_t* mask;  // null: all tokens are allowed
  int vocab;
  bool aligned;  // whether x is, to 16 bytes
  Divisor temperature;

  __device__ __forceinline__ int num_chunks() const { return (vocab + kSampleChunk - 1) / kSampleChunk; }

  /// Bits of the 32 tokens around `token`, from it up.
  __device__ __forceinline__ unsigned allowed(int token) const { return mask[token >> 5] >> (token & 31); }

  /// From the logits of four tokens, from `token` up, to the values that are drawn from.
  __device__ __forceinline__ void adjust(int token, float (&values)[4]) const {
    if (!temperature.is_one()) temperature.divide(values);
    if (!mask) return;
    const unsigned bits = allowed(token);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = bits >> i & 1u ? values[i] : -INFINITY;
  }
  /// The same for one token.
  __device__ __forceinline__ float value(int token) const {
    return mask && !(allowed(token) & 1u) ? -INFINITY : temperature.quotient(x[token]);
  }
};

/// Row r with the values that are drawn from.
__device__ __forceinline__ RowView adjusted_row(const SampleWork& work, int r) {
  const SampleRow& row = work.tasks[r].row;
  return {work.logits + r * work.stride, row.mask < 0 ? nullptr : work.masks + static_cast<int64_t>(row.mask) * work.mask_words,
          work.vocab, work.aligned, Divisor(row.temperature == 0 ? 1.0f : row.temperature)};
}
__device__ __forceinline__ RowView raw_row(const SampleWork& work, int r) {
  return {work.logits + r * work.stride, nullptr, work.vocab, work.aligned, Divisor(1)};
}

/// Calls visit(token, logits) for the lane's part of the chunk, four tokens at a time, ascending; kLoads of them are read
/// ahead. Past the vocabulary's end logits are -infinity.
template <int kLoads, class Visit>
__device__ __forceinline__ void visit_chunk(const RowView& row, int chunk, Visit visit) {
  const int first = chunk * kSampleChunk + 4 * static_cast<int>(threadIdx.x % 32);
  if (row.aligned && (chunk + 1) * kSampleChunk <= row.vocab) {
#pragma unroll 1
    for (int part = first; part < first + kSampleChunk; part += 128 * kLoads) {
      float4 loaded[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) loaded[i] = *reinterpret_cast<const float4*>(row.x + part + 128 * i);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        float logits[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
        visit(part + 128 * i, logits);
      }
    }
    return;
  }
  const int end = min(first + kSampleChunk, row.vocab);
#pragma unroll 1
  for (int token = first; token < end; token += 128) {
    float logits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) logits[i] = token + i < row.vocab ? row.x[token + i] : -INFINITY;
    visit(token, logits);
  }
}

/// Calls visit(key, token) for every value of the row, each in one thread of the block.
struct RowSource {
  RowView row;

  template <class Visit>
  __device__ __forceinline__ void visit_all(Visit visit) const {
    const int warps = static_cast<int>(blockDim.x / 32);
    for (int chunk = static_cast<int>(threadIdx.x / 32); chunk < row.num_chunks(); chunk += warps) {
      visit_chunk<2>(row, chunk, [&](int token, float (&values)[4]) {
        row.adjust(token, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (token + i < row.vocab) visit(float_key(values[i]), static_cast<uint32_t>(token + i));
        }
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

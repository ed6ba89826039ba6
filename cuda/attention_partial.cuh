// Where the decode kernel leaves the states of leaves for the kernel that combines them: [num_partials][num_heads] maxima and
// sums of weights, rounded up to whole lines of memory, then [num_partials][num_heads][head_dim] sums of weighted values.
#pragma once

#include "cuda/attention_common.cuh"

namespace pagoda::cuda {

__host__ __device__ constexpr int64_t attention_partial_scales(int64_t num_partials, int num_heads) {
  return (num_partials * num_heads + 15) / 16 * 16;
}
constexpr size_t attention_partial_bytes(int64_t num_partials, int num_heads, int head_dim) {
  return static_cast<size_t>(attention_partial_scales(num_partials, num_heads) * 8 + num_partials * num_heads * head_dim * 4);
}

/// One leaf of one head.
struct AttentionPartial {
  float2* scale;  ///< maximum and sum of weights
  float* values;  ///< [head_dim]
};
__device__ __forceinline__ AttentionPartial attention_partial(const AttentionParams& p, int slot, int head) {
  const int64_t at = int64_t{slot} * p.num_heads + head;
  const int64_t scales = attention_partial_scales(p.num_partials, p.num_heads);
  return {reinterpret_cast<float2*>(p.partials) + at, p.partials + 2 * scales + at * p.head_dim};
}

}  // namespace pagoda::cuda

// What the attention kernels have in common: their parameters, and the one order in which every query's softmax is summed,
// whichever kernel computes it, in whatever batch, chunk or split:
//   - Keys come in tiles of 64 and leaves of 256, both aligned to position 0. A leaf starts empty and takes its tiles in
//     ascending order; the total starts empty and takes the leaves in ascending order; a sink comes last.
//   - A tile's scores are chains of mma over 16 columns of the head at a time, ascending. Its weights 2^(score - maximum) are
//     rounded to the mma's 16-bit type; weighted values and the sum of weights (a column of ones beside the values) are chains
//     of mma over 16 keys at a time, ascending.
//   - What a row does not see has the score -infinity. It changes no bit, so it does not matter whether it is computed or
//   skipped.
#pragma once

#include <cstdint>

#include "cuda/gpu.h"
#include "cuda/number.cuh"

namespace pagoda::cuda {

constexpr int kAttentionTile = 64;   ///< keys
constexpr int kAttentionLeaf = 256;  ///< keys

/// Plain data for the kernels, the same for all of an operation's work.
struct AttentionParams {
  const Bf16* q = nullptr;  ///< [T, num_heads * head_dim], rows q_stride apart
  int64_t num_tokens = 0;   ///< T; 0: not known, and attention_prefill_sm90a.cu does not apply
  int64_t q_stride = 0;
  Bf16* out = nullptr;  ///< [T, num_heads * head_dim], rows out_stride apart
  int64_t out_stride = 0;
  const void* kv = nullptr;              ///< [num_blocks][k, v][kv_heads][block_size][head_dim]
  int block_shift = 4;                   ///< log2(block_size)
  const int32_t* query_start = nullptr;  ///< [S + 1]
  const int32_t* kv_len = nullptr;       ///< [S]
  const int32_t* block_table = nullptr;  ///< [S, max_blocks]
  int max_blocks = 0;
  int num_seqs = 0;
  int num_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float scale = 1;
  int window = 0;                ///< 0 = all keys
  float soft_cap = 0;            ///< 0 = off
  const float* sinks = nullptr;  ///< [num_heads] or null
  float* partials = nullptr;     ///< decode: states of leaves, see attention_decode.cu
  int num_partials = 0;          ///< leaves that `partials` has room for

  __device__ int group() const { return num_heads / kv_heads; }
  /// Elements from the start of the cache to key (or value) `offset` of a block and KV head.
  __device__ int64_t kv_offset(int32_t block, int value, int kv_head, int offset) const {
    return ((((int64_t{block} * 2 + value) * kv_heads + kv_head) << block_shift) + offset) * head_dim;
  }
};

constexpr float kLog2E = 1.44269504f;

/// What the parameters add to a score: computed once, outside of loops.
struct AttentionScale {
  float inner;
  float outer;  ///< 0: no cap
};
__device__ __forceinline__ AttentionScale attention_scale(const AttentionParams& p) {
  if (p.soft_cap > 0) return {p.scale / p.soft_cap, p.soft_cap * kLog2E};
  return {p.scale * kLog2E, 0.0f};
}
/// From q . k to the score in units of log 2: scaled, capped.
__device__ __forceinline__ float attention_score(float dot, const AttentionScale& scale) {
  return scale.outer > 0 ? scale.outer * tanhf(dot * scale.inner) : dot * scale.inner;
}
__device__ __forceinline__ float attention_score(float dot, const AttentionParams& p) {
  return attention_score(dot, attention_scale(p));
}

/// Whether the query at `position` sees `key`.
__device__ __forceinline__ bool attention_sees(int position, int key, int window) {
  return key <= position && (window == 0 || key > position - window);
}

/// The factor of what was summed up under `maximum` when the maximum becomes `new_maximum`; with both -infinity 0.
__device__ __forceinline__ float attention_rescale(float maximum, float new_maximum) {
  return gpu::exp2_approx(maximum - (new_maximum == -INFINITY ? 0.0f : new_maximum));
}

/// The factors that bring a total and a leaf to their common maximum, which becomes the total's.
struct AttentionMerge {
  float total_factor, leaf_factor;
};
__device__ __forceinline__ AttentionMerge attention_merge(float& total_maximum, float leaf_maximum) {
  const float maximum = fmaxf(total_maximum, leaf_maximum);
  const AttentionMerge factors{attention_rescale(total_maximum, maximum), attention_rescale(leaf_maximum, maximum)};
  total_maximum = maximum;
  return factors;
}
/// One element of the weighted sum, or the sum of weights itself.
__device__ __forceinline__ float attention_merged(float total, float leaf, const AttentionMerge& factors) {
  return fmaf(leaf, factors.leaf_factor, total * factors.total_factor);
}

/// Adds a sink (a logit, natural units) to the sum of weights under `maximum`; returns the factor of the weighted values.
__device__ __forceinline__ float attention_normaliser(float maximum, float sum, const AttentionParams& p, int head) {
  if (!p.sinks) return 1.0f / sum;
  const float sink = p.sinks[head] * kLog2E;
  const float top = fmaxf(maximum, sink);
  const float factor = attention_rescale(maximum, top);
  return factor / fmaf(sum, factor, gpu::exp2_approx(sink - top));
}

}  // namespace pagoda::cuda

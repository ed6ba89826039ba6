// The arithmetic of one warp of the decode kernel: scores of a tile of keys, their weights, the leaf that takes them in, the
// total that takes the leaf in, and where both go. In the order of attention_common.cuh. Used by attention_decode.cuh.
#pragma once

#include "cuda/attention_common.cuh"
#include "cuda/attention_decode_pieces.cuh"
#include "cuda/attention_partial.cuh"

namespace pagoda::cuda {

template <class Kv>
__device__ __forceinline__ void decode_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<Kv, Bf16>) {
    gpu::mma_bf16(d, a, b[0], b[1]);
  } else {
    gpu::mma_f16(d, a, b[0], b[1]);
  }
}
/// Two values in the mma's type.
template <class Kv>
__device__ __forceinline__ uint32_t decode_pack(float low, float high) {
  return std::is_same_v<Kv, Bf16> ? gpu::pack_bf16(low, high) : gpu::pack_f16(low, high);
}

/// Fragments below are as the mma leaves them. With g = lane / 4 and q = lane % 4 * 2, elements 0 and 1 of a tile of 8 heads
/// belong to row g and heads q and q + 1, elements 2 and 3 to row g + 8; rows are keys or columns of values.
template <int kHeadTiles>
using DecodeScores = float[kAttentionTile / 16][kHeadTiles][4];
/// Weights as the second operand: 16 keys and 8 heads each.
template <int kHeadTiles>
using DecodeWeights = uint32_t[kAttentionTile / 16][kHeadTiles][2];

/// The current leaf: the sums of weights and of weighted values under a maximum.
template <class S, int kHeadTiles>
struct DecodeLeaf {
  float values[kHeadTiles][S::kHeadDim / 16][4];
  float sum[kHeadTiles][4];  ///< elements 0 and 1; the others stay 0
  float maximum[kHeadTiles][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
      for (int i = 0; i < S::kHeadDim / 4; ++i) values[n][i / 4][i % 4] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] = 0;
      maximum[n][0] = maximum[n][1] = -INFINITY;
    }
  }
};

/// The leaves so far; their values lie in shared memory, each lane's own.
template <class S, int kHeadTiles>
struct DecodeTotal {
  float4* values;  ///< [kHeadTiles][kHeadDim / 16], 32 apart
  float sum[kHeadTiles][2];
  float maximum[kHeadTiles][2];
};

/// Heads that one warp takes together.
struct DecodeHeads {
  int kv_head;
  int first;  ///< of the query's heads
  int count;
};

/// The heads' queries as the second operand, zeros past `count` and past the head.
template <class S, int kHeadTiles>
struct DecodeQueries {
  uint32_t pairs[S::kHeadDim / 16][kHeadTiles][2];

  __device__ __forceinline__ void load(const AttentionParams& p, int token, const DecodeHeads& heads, int lane) {
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const int head = 8 * n + lane / 4;
      const Bf16* from = p.q + token * p.q_stride + static_cast<int64_t>(heads.first + head) * p.head_dim;
#pragma unroll
      for (int i = 0; i < S::kHeadDim / 8; ++i) {
        const int column = 8 * i + lane % 4 * 2, size = head < heads.count ? p.head_dim - column : 0;
        const Bf16 low = size > 0 ? from[column] : Bf16{}, high = size > 1 ? from[column + 1] : Bf16{};
        if constexpr (std::is_same_v<typename S::Kv, Bf16>) {
          pairs[i / 2][n][i % 2] = low.bits | static_cast<uint32_t>(high.bits) << 16;
        } else {
          pairs[i / 2][n][i % 2] = gpu::pack_f16(to_float(low), to_float(high));
        }
      }
    }
  }
};

/// scores = q . k of a piece's 32 keys, the first or second `half` of the tile's.
template <class S, int kHeadTiles>
__device__ __forceinline__ void multiply_keys(DecodeScores<kHeadTiles>& scores, int half,
                                              const DecodeQueries<S, kHeadTiles>& queries, const unsigned char* piece,
                                              const KeyFragments<S>& keys) {
#pragma unroll
  for (int i = 0; i < 2 * kHeadTiles * 4; ++i) scores[2 * half + i / (kHeadTiles * 4)][i / 4 % kHeadTiles][i % 4] = 0;
#pragma unroll
  for (int i = 0; i < S::kHeadDim / 16; ++i) {
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      uint32_t a[4];
      keys.load(a, piece, group, i);
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) decode_mma<typename S::Kv>(scores[2 * half + group][n], a, queries.pairs[i][n]);
    }
  }
}

/// From q . k to scores; what the query does not see of the 64 keys from `first_key` becomes -infinity.
template <int kHeadTiles>
__device__ __forceinline__ void scale_scores(DecodeScores<kHeadTiles>& scores, const AttentionParams& p,
                                             const AttentionScale& scale, int position, int first_key, int lane) {
  constexpr int kScores = kAttentionTile / 16 * kHeadTiles * 4;
  const auto at = [&](int i) -> float& { return scores[i / (kHeadTiles * 4)][i / 4 % kHeadTiles][i % 4]; };
  if (scale.outer > 0) {  // asked once, not for every score
#pragma unroll
    for (int i = 0; i < kScores; ++i) at(i) = attention_score(at(i), scale);
  } else {
#pragma unroll
    for (int i = 0; i < kScores; ++i) at(i) = attention_score(at(i), AttentionScale{scale.inner, 0});
  }
  if (attention_sees(position, first_key, p.window) && attention_sees(position, first_key + kAttentionTile - 1, p.window))
    return;
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int key = first_key + i / (kHeadTiles * 4) * 16 + i % 4 / 2 * 8 + lane / 4;
    at(i) = attention_sees(position, key, p.window) ? at(i) : -INFINITY;
  }
}

/// Takes the tile's maximum into the leaf's and brings the leaf there; weights follow from the scores.
template <class S, int kHeadTiles>
__device__ __forceinline__ void weigh_scores(DecodeWeights<kHeadTiles>& weights, const DecodeScores<kHeadTiles>& scores,
                                             DecodeLeaf<S, kHeadTiles>& leaf) {
  constexpr int kGroups = kAttentionTile / 16;
#pragma unroll
  for (int n = 0; n < kHeadTiles; ++n) {
    float factor[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float maximum = leaf.maximum[n][e];
#pragma unroll
      for (int k = 0; k < kGroups; ++k) maximum = fmaxf(maximum, fmaxf(scores[k][n][e], scores[k][n][2 + e]));
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, lanes));
      factor[e] = attention_rescale(leaf.maximum[n][e], maximum);
      leaf.maximum[n][e] = maximum;
      leaf.sum[n][e] *= factor[e];
    }
#pragma unroll
    for (int i = 0; i < S::kHeadDim / 4; ++i) leaf.values[n][i / 4][i % 4] *= factor[i % 2];
#pragma unroll
    for (int i = 0; i < 2 * kGroups; ++i) {
      const float (&pair)[4] = scores[i / 2][n];
      const float low = attention_rescale(pair[i % 2 * 2], leaf.maximum[n][0]);
      const float high = attention_rescale(pair[i % 2 * 2 + 1], leaf.maximum[n][1]);
      weights[i / 2][n][i % 2] = gpu::transpose_8x8(decode_pack<typename S::Kv>(low, high));
    }
  }
}

/// Adds a piece's 32 keys to the leaf: values times weights, and the weights.
template <class S, int kHeadTiles>
__device__ __forceinline__ void multiply_values(DecodeLeaf<S, kHeadTiles>& leaf, const DecodeWeights<kHeadTiles>& weights,
                                                int half, const unsigned char* piece, const ValueFragments<S>& values) {
  using Kv = typename S::Kv;
  constexpr uint32_t kOnes = std::is_same_v<Kv, Bf16> ? 0x3f803f80u : 0x3c003c00u;
  const uint32_t ones[4] = {kOnes, 0, kOnes, 0};  // in 8 of 16 rows
#pragma unroll
  for (int group = 0; group < 2; ++group) {
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) decode_mma<Kv>(leaf.sum[n], ones, weights[2 * half + group][n]);
#pragma unroll
    for (int i = 0; i < S::kHeadDim / 32; ++i) {
      uint32_t a[2][4];
      values.load(a, piece, group, i);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) decode_mma<Kv>(leaf.values[n][2 * i + j], a[j], weights[2 * half + group][n]);
      }
    }
  }
}

/// Folds the leaf into the total, whose values are left in the leaf's registers too. `first`: the total is empty; `last`: it is
/// not needed any more.
template <class S, int kHeadTiles>
__device__ __forceinline__ void fold_leaf(DecodeTotal<S, kHeadTiles>& total, DecodeLeaf<S, kHeadTiles>& leaf, bool first,
                                          bool last) {
#pragma unroll
  for (int n = 0; n < kHeadTiles; ++n) {
    AttentionMerge factors[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (first) total.maximum[n][e] = -INFINITY, total.sum[n][e] = 0;
      factors[e] = attention_merge(total.maximum[n][e], leaf.maximum[n][e]);
      total.sum[n][e] = attention_merged(total.sum[n][e], leaf.sum[n][e], factors[e]);
    }
#pragma unroll
    for (int i = 0; i < S::kHeadDim / 16; ++i) {
      float4* at = total.values + (n * (S::kHeadDim / 16) + i) * 32;
      float4 sums = first ? make_float4(0, 0, 0, 0) : *at;
      float (&own)[4] = leaf.values[n][i];
      own[0] = sums.x = attention_merged(sums.x, own[0], factors[0]);
      own[1] = sums.y = attention_merged(sums.y, own[1], factors[1]);
      own[2] = sums.z = attention_merged(sums.z, own[2], factors[0]);
      own[3] = sums.w = attention_merged(sums.w, own[3], factors[1]);
      if (!last) *at = sums;
    }
  }
}

/// use(head of the query, value's tile of 8 heads and element of a pair) for the lane's heads that exist.
template <int kHeadTiles, class Use>
__device__ __forceinline__ void for_heads(const DecodeHeads& heads, int lane, Use use) {
#pragma unroll
  for (int i = 0; i < 2 * kHeadTiles; ++i) {
    const int head = i / 2 * 8 + lane % 4 * 2 + i % 2;
    if (head < heads.count) use(heads.first + head, i / 2, i % 2);
  }
}

/// Divides what the last leaf holds by the total's sums of weights and writes the query's row.
template <class S, int kHeadTiles>
__device__ __forceinline__ void store_output(const AttentionParams& p, int token, const DecodeHeads& heads, int lane,
                                             const DecodeLeaf<S, kHeadTiles>& last, const DecodeTotal<S, kHeadTiles>& total) {
  for_heads<kHeadTiles>(heads, lane, [&](int head, int n, int e) {
    const float factor = attention_normaliser(total.maximum[n][e], total.sum[n][e], p, head);
    Bf16* out = p.out + token * p.out_stride + static_cast<int64_t>(head) * p.head_dim;
#pragma unroll
    for (int i = 0; i < S::kHeadDim / 8; ++i) {
      const int column = ValueFragments<S>::column(i / 2, lane, i % 2);
      if (column < p.head_dim) out[column] = from_float<Bf16>(last.values[n][i / 2][i % 2 * 2 + e] * factor);
    }
  });
}

/// Leaves the leaf's state in `slot` of the partials.
template <class S, int kHeadTiles>
__device__ __forceinline__ void store_partial(const AttentionParams& p, int slot, const DecodeHeads& heads, int lane,
                                              const DecodeLeaf<S, kHeadTiles>& leaf) {
  for_heads<kHeadTiles>(heads, lane, [&](int head, int n, int e) {
    const AttentionPartial partial = attention_partial(p, slot, head);
    if (lane < 4) *partial.scale = make_float2(leaf.maximum[n][e], leaf.sum[n][e]);
#pragma unroll
    for (int i = 0; i < S::kHeadDim / 8; ++i) {
      const int column = ValueFragments<S>::column(i / 2, lane, i % 2);
      if (column < p.head_dim) partial.values[column] = leaf.values[n][i / 2][i % 2 * 2 + e];
    }
  });
}

}  // namespace pagoda::cuda

// Prefill attention over the paged cache, for all sequences with more than one query in the batch: the kernel, a template that
// attention_prefill_<head size>.cu instantiate.
// Parallel over tiles of rows of a (sequence, KV head), a row being a query and one head of the group; a warp takes 16 or 32
// rows against tiles of 64 keys with mma.sync. 4 * head_dim flops for each row and key it sees; bound by the tensor cores and
// by reading fragments from shared memory (32 rows of a warp share the keys' and values'), not by the cache's bytes.
#pragma once

#include <algorithm>

#include "cuda/attention_common.cuh"
#include "cuda/attention_prefill_tile.cuh"
#include "cuda/attention_prefill_work.cuh"
#include "cuda/queue.h"

namespace pagoda::cuda {

template <class Kv>
__device__ __forceinline__ void prefill_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<Kv, Bf16>) {
    gpu::mma_bf16(d, a, b0, b1);
  } else {
    gpu::mma_f16(d, a, b0, b1);
  }
}
template <class Kv>
__device__ __forceinline__ uint32_t pack_weights(float low, float high) {
  return std::is_same_v<Kv, Bf16> ? gpu::pack_bf16(low, high) : gpu::pack_f16(low, high);
}
/// Two ones, of the mma's type.
template <class Kv>
constexpr uint32_t kMmaOnes = std::is_same_v<Kv, Bf16> ? 0x3f803f80u : 0x3c003c00u;

/// A warp's rows in the current leaf. Registers as the mma leaves them: of 16 rows and 8 columns a lane holds, with g = lane /
/// 4, elements {0, 1} of row g and {2, 3} of row g + 8.
template <class S>
struct PrefillLeaf {
  float values[S::kRowTiles][S::kColumns / 8][4];  ///< sums of weighted values
  float sum[S::kRowTiles][2];                      ///< of weights
  float maximum[S::kRowTiles][2];                  ///< of scores

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < S::kColumns / 2; ++i) values[t][i / 4][i % 4] = 0;
      sum[t][0] = sum[t][1] = 0;
      maximum[t][0] = maximum[t][1] = -INFINITY;
    }
  }
};

/// The leaves so far, each thread's own where S says. The values are laid out as a leaf's. A lane's scale is that of one of its
/// warp's rows: of row 16 * t + 8 * half + g in the lane with lane / 4 = g and lane % 4 = 2 * t + half.
template <class S>
class PrefillTotal {
 public:
  /// x the maximum of a row's scores, y the sum of its weights.
  using Scale = float2;

  __device__ __forceinline__ explicit PrefillTotal(unsigned char* shared) : shared_(shared) {}

  __device__ __forceinline__ static bool has_scale(int t, int half) { return own_lane() % 4 == 2 * t + half; }
  /// From the lane that has it.
  __device__ __forceinline__ static Scale scale_of_row(const Scale& kept, int t, int half) {
    return {__shfl_sync(~0u, kept.x, 2 * t + half, 4), __shfl_sync(~0u, kept.y, 2 * t + half, 4)};
  }
  __device__ __forceinline__ Scale scale() const { return S::kTotalInRegisters ? scale_ : shared_scale(); }
  __device__ __forceinline__ void set_scale(const Scale& scale) { (S::kTotalInRegisters ? scale_ : shared_scale()) = scale; }

  __device__ __forceinline__ float4 values(int t, int n) const {
    return S::kTotalInRegisters ? values_[t * kMatrices + n] : shared_values()[(t * kMatrices + n) * S::kThreads];
  }
  __device__ __forceinline__ void set_values(int t, int n, const float4& values) {
    (S::kTotalInRegisters ? values_[t * kMatrices + n] : shared_values()[(t * kMatrices + n) * S::kThreads]) = values;
  }

 private:
  static constexpr int kMatrices = S::kColumns / 8;
  static_assert(S::kRowTiles <= 2);

  __device__ __forceinline__ float4* shared_values() const {
    return reinterpret_cast<float4*>(shared_ + S::kTotalAt) + gpu::opaque(threadIdx.x);
  }
  __device__ __forceinline__ Scale& shared_scale() const {
    return reinterpret_cast<Scale*>(shared_ + S::kScalesAt)[gpu::opaque(threadIdx.x)];
  }

  unsigned char* shared_;
  Scale scale_;
  float4 values_[S::kTotalInRegisters ? S::kRowTiles * kMatrices : 1];
};

/// Scores and then weights of 16 rows and 64 keys.
template <class S>
using PrefillScores = float[S::kRowTiles][kAttentionTile / 8][4];

template <class S>
__device__ __forceinline__ void fill_scores(PrefillScores<S>& scores, float value) {
#pragma unroll
  for (int i = 0; i < S::kRowTiles * kAttentionTile / 2; ++i) {
    scores[i / (kAttentionTile / 2)][i / 4 % (kAttentionTile / 8)][i % 4] = value;
  }
}

/// scores = q . k
template <class S>
__device__ __forceinline__ void multiply_keys(PrefillScores<S>& scores, const unsigned char* queries,
                                              const unsigned char* keys) {
  const auto query_row = LaneRow<S::kHeadDim>::by_columns(), key_row = LaneRow<S::kHeadDim>::by_rows();
  fill_scores<S>(scores, 0);
#pragma unroll
  for (int k = 0; k < S::kHeadDim / 16; ++k) {
    uint32_t q[S::kRowTiles][4];
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) gpu::ldmatrix_x4(q[t], queries + t * 16 * (2 * S::kHeadDim) + query_row.at(k));
#pragma unroll
    for (int n = 0; n < kAttentionTile / 16; ++n) {
      uint32_t b[4];
      gpu::ldmatrix_x4(b, keys + n * 16 * (2 * S::kHeadDim) + key_row.at(k));
#pragma unroll
      for (int t = 0; t < S::kRowTiles; ++t) {
        prefill_mma<typename S::Kv>(scores[t][2 * n], q[t], b[0], b[1]);
        prefill_mma<typename S::Kv>(scores[t][2 * n + 1], q[t], b[2], b[3]);
      }
    }
  }
}

/// From q . k to scores.
template <class S>
__device__ __forceinline__ void scale_scores(PrefillScores<S>& scores, const AttentionParams& p) {
  const auto apply = [&] {
    const AttentionScale scale = attention_scale(p);
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kAttentionTile / 2; ++i) scores[t][i / 4][i % 4] = attention_score(scores[t][i / 4][i % 4], scale);
    }
  };
  if (p.soft_cap > 0) {  // asked once, not for every score
    apply();
  } else {
    apply();
  }
}

/// Takes away what the rows do not see of the 64 keys from `first_key`.
template <class S>
__device__ __forceinline__ void hide_keys(PrefillScores<S>& scores, const AttentionParams& p, const PrefillTile& tile,
                                          int first_key) {
  const int lane = own_lane();
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = tile.position(p, own_first_row<S>() + 16 * t + 8 * half + lane / 4);
#pragma unroll
      for (int i = 0; i < kAttentionTile / 4; ++i) {
        const int key = first_key + i / 2 * 8 + lane % 4 * 2 + i % 2;
        float& score = scores[t][i / 2][2 * half + i % 2];
        score = attention_sees(position, key, p.window) ? score : -INFINITY;
      }
    }
  }
}

/// Takes the tile's maximum into the leaf's and brings the leaf there. `fresh`: the leaf is empty.
template <class S>
__device__ __forceinline__ void raise_maximum(PrefillLeaf<S>& leaf, const PrefillScores<S>& scores, bool fresh) {
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float maximum = fmaxf(scores[t][0][2 * half], scores[t][0][2 * half + 1]);
#pragma unroll
      for (int n = 1; n < kAttentionTile / 8; ++n) {
        maximum = fmaxf(maximum, fmaxf(scores[t][n][2 * half], scores[t][n][2 * half + 1]));
      }
      maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
      maximum = fmaxf(maximum, leaf.maximum[t][half]);
      factor[half] = attention_rescale(leaf.maximum[t][half], maximum);
      leaf.maximum[t][half] = maximum;
    }
    if (fresh) continue;
    leaf.sum[t][0] *= factor[0];
    leaf.sum[t][1] *= factor[1];
#pragma unroll
    for (int i = 0; i < S::kColumns / 2; ++i) leaf.values[t][i / 4][i % 4] *= factor[i % 4 / 2];
  }
}

/// Adds the tile to the leaf: the scores' weights, and values times weights. The leaf has the tile's maximum already.
template <class S>
__device__ __forceinline__ void multiply_values(PrefillLeaf<S>& leaf, const PrefillScores<S>& scores,
                                                const unsigned char* values) {
  using Kv = typename S::Kv;
  const auto value_row = LaneRow<S::kColumns>::by_columns();
  float sum[S::kRowTiles][4];  // the same in all columns
#pragma unroll
  for (int i = 0; i < S::kRowTiles * 4; ++i) sum[i / 4][i % 4] = leaf.sum[i / 4][i % 4 / 2];
  // What attention_rescale subtracts. Registers are too few for the maximum beside it: it comes back from the sum.
  float base[S::kRowTiles][2];
#pragma unroll
  for (int i = 0; i < S::kRowTiles * 2; ++i) {
    base[i / 2][i % 2] = leaf.maximum[i / 2][i % 2] == -INFINITY ? 0.0f : leaf.maximum[i / 2][i % 2];
  }
#pragma unroll
  for (int k = 0; k < kAttentionTile / 16; ++k) {
    uint32_t w[S::kRowTiles][4];
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &scores[t][2 * k + i / 2][i % 2 * 2];
        w[t][i] = pack_weights<Kv>(gpu::exp2_approx(pair[0] - base[t][i % 2]), gpu::exp2_approx(pair[1] - base[t][i % 2]));
      }
    }
#pragma unroll
    for (int n = 0; n < S::kColumns / 16; ++n) {
      uint32_t b[4];
      gpu::ldmatrix_x4_trans(b, values + k * 16 * 2 * S::kColumns + value_row.at(n));
#pragma unroll
      for (int t = 0; t < S::kRowTiles; ++t) {
        prefill_mma<Kv>(leaf.values[t][2 * n], w[t], b[0], b[1]);
        prefill_mma<Kv>(leaf.values[t][2 * n + 1], w[t], b[2], b[3]);
      }
    }
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) prefill_mma<Kv>(sum[t], w[t], kMmaOnes<Kv>, kMmaOnes<Kv>);
  }
#pragma unroll
  for (int i = 0; i < S::kRowTiles * 2; ++i) {
    leaf.sum[i / 2][i % 2] = sum[i / 2][i % 2 * 2];
    leaf.maximum[i / 2][i % 2] = sum[i / 2][i % 2 * 2] > 0 ? base[i / 2][i % 2] : -INFINITY;  // nothing seen yet
  }
}

/// Folds the leaf into the total. `first`: the total is empty; `last`: the total's values are left in the leaf's registers.
template <class S>
__device__ __forceinline__ void fold_leaf(PrefillTotal<S>& total, PrefillLeaf<S>& leaf, bool first, bool last) {
  float2 kept = first ? make_float2(-INFINITY, 0.0f) : total.scale();
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
    AttentionMerge factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 scale = total.scale_of_row(kept, t, half);
      factors[half] = attention_merge(scale.x, leaf.maximum[t][half]);
      scale.y = attention_merged(scale.y, leaf.sum[t][half], factors[half]);
      if (total.has_scale(t, half)) kept = scale;
    }
#pragma unroll
    for (int n = 0; n < S::kColumns / 8; ++n) {
      float4 sums = first ? make_float4(0, 0, 0, 0) : total.values(t, n);
      float* own = leaf.values[t][n];
      sums.x = own[0] = attention_merged(sums.x, own[0], factors[0]);
      sums.y = own[1] = attention_merged(sums.y, own[1], factors[0]);
      sums.z = own[2] = attention_merged(sums.z, own[2], factors[1]);
      sums.w = own[3] = attention_merged(sums.w, own[3], factors[1]);
      if (!last) total.set_values(t, n, sums);
    }
  }
  total.set_scale(kept);
}

/// Divides by the sums of weights and writes the rows that exist.
template <class S>
__device__ __forceinline__ void store_rows(const AttentionParams& p, const PrefillTile& tile, const PrefillLeaf<S>& leaf,
                                           const PrefillTotal<S>& total) {
  const int lane = own_lane();
  const float2 kept = total.scale();
  const bool pairs = p.head_dim % 2 == 0 && p.out_stride % 2 == 0 && reinterpret_cast<uintptr_t>(p.out) % 4 == 0;
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 scale = total.scale_of_row(kept, t, half);
      const int row = own_first_row<S>() + 16 * t + 8 * half + lane / 4, head = tile.head(p, row);
      if (row >= tile.num_rows) continue;
      const float factor = attention_normaliser(scale.x, scale.y, p, head);
      Bf16* out = p.out + (tile.first_query + tile.query(p, row)) * p.out_stride + head * p.head_dim;
#pragma unroll
      for (int n = 0; n < S::kColumns / 8; ++n) {
        const int column = tile.first_column + 8 * n + lane % 4 * 2;
        const uint32_t pair = gpu::pack_bf16(leaf.values[t][n][2 * half] * factor, leaf.values[t][n][2 * half + 1] * factor);
        if (pairs) {
          if (column < p.head_dim) *reinterpret_cast<uint32_t*>(out + column) = pair;
        } else {
          if (column < p.head_dim) out[column].bits = static_cast<uint16_t>(pair);
          if (column + 1 < p.head_dim) out[column + 1].bits = static_cast<uint16_t>(pair >> 16);
        }
      }
    }
  }
}

/// All keys against one item's rows.
template <class S>
__device__ __forceinline__ void attend(const AttentionParams& p, const PrefillTile& tile, unsigned char* shared) {
  constexpr int kTiles = kAttentionLeaf / kAttentionTile;
  // first and last position of the warp's rows
  const auto span = [&]() -> int2& { return reinterpret_cast<int2*>(shared + S::kSpansAt)[gpu::opaque(threadIdx.x) / 32]; };
  if (own_lane() == 0) span() = tile.positions(p, own_first_row<S>(), 16 * S::kRowTiles);
  PrefillLeaf<S> leaf;
  PrefillTotal<S> total(shared);

  load_queries<S>(p, tile, shared + S::kQueriesAt);
  KvStream<S> stream(p, tile, shared);
  stream.start(tile.first_tile());
#pragma unroll 1
  for (int j = tile.first_tile(); j <= tile.last_tile();) {  // leaves
    leaf.clear();
#pragma unroll 1
    do {
      const int first_key = j * kAttentionTile, last_key = first_key + kAttentionTile - 1;
      const bool sees = first_key <= span().y && (p.window == 0 || last_key > span().x - p.window);
      PrefillScores<S> scores;
      stream.await_keys(j);
      if (sees) {
        multiply_keys<S>(scores, shared + S::kQueriesAt + own_first_row<S>() * (2 * S::kHeadDim), shared + S::kKeysAt);
      } else {
        fill_scores<S>(scores, gpu::opaque(0.0f));  // or they would take registers before
      }
      stream.await_values(j);
      if (!sees) continue;
      scale_scores<S>(scores, p);
      if (last_key > span().x || (p.window != 0 && first_key <= span().y - p.window)) {
        hide_keys<S>(scores, p, tile, first_key);
      }
      raise_maximum<S>(leaf, scores, j % kTiles == 0 || j == tile.first_tile());
      multiply_values<S>(leaf, scores, shared + S::kValuesAt);
    } while (++j % kTiles != 0 && j <= tile.last_tile());
    if (span().y >= 0) fold_leaf<S>(total, leaf, (j - 1) / kTiles == tile.first_tile() / kTiles, j > tile.last_tile());
  }
  if (span().y >= 0) store_rows<S>(p, tile, leaf, total);
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks) prefill_attention_kernel(const __grid_constant__ AttentionParams p) {
  DYNAMIC_SHARED(shared);
  typename S::Work work(p, shared + S::kWorkAt);
  gpu::launch_dependents();  // all blocks are there, and the next kernel waits until they have ended
  PrefillItem item;
  auto* tile = reinterpret_cast<PrefillTile*>(shared + S::kItemAt);
  while (work.next(item)) {
    gpu::wait_for_grid();
    if (threadIdx.x == 0) *tile = PrefillTile(p, item, S::kRows, S::kColumns);
    __syncthreads();
    attend<S>(p, *tile, shared);
  }
  gpu::wait_for_grid();
}

/// As many blocks as the device holds at once. queue.shared_bytes is what one block may have; 1 KiB of a multiprocessor's is
/// kept for the system and each block needs as much besides its own.
template <class S>
void launch_prefill_attention(const Queue& queue, const AttentionParams& params) {
  const int fitting = static_cast<int>((queue.shared_bytes + 1024) / (S::kSharedBytes + 1024));
  const int blocks = queue.num_multiprocessors * std::clamp(fitting, 1, S::kBlocks);
  launch(queue, {static_cast<unsigned>(blocks), S::kThreads, S::kSharedBytes}, "prefill attention", prefill_attention_kernel<S>,
         params);
}

}  // namespace pagoda::cuda

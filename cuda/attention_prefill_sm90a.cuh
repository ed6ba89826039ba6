// Prefill attention on Hopper over the paged cache, for all sequences with more than one query in the batch: the kernel, a
// template that attention_prefill_sm90a.cu instantiates. Parallel over items (a KV head and as many queries of a sequence as
// make 128 rows, a row being a query and one head of the group). One warp copies; two warpgroups take 64 rows each against
// tiles of 64 keys with wgmma. 4 * head_dim flops for each row and key it sees; bound by the tensor cores if exponentials hide
// behind products: the warpgroups take turns, so that one weighs its scores while the other multiplies, and a warpgroup asks
// for the next scores before it asks for this tile's values.
#pragma once

#include "cuda/attention_common.cuh"
#include "cuda/attention_prefill_sm90a_stream.cuh"
#include "cuda/gpu90.h"

namespace pagoda::cuda {

/// tanh from 2^x: an error of about 1e-7.
__device__ __forceinline__ float tanh_by_exp2(float x) {
  return 1.0f - __fdividef(2.0f, 1.0f + gpu::exp2_approx(x * (2.0f * kLog2E)));
}

/// The rows of one thread of a warpgroup: registers as wgmma leaves them. With g = lane / 4 and q = 2 * (lane % 4), element 4 *
/// n + i is of row g + 8 * (i / 2) of the warp's 16 and column 8 * n + q + i % 2.
template <class S>
struct HopperRows {
  float scores[kAttentionTile / 2];  ///< of the current tile; then weights
  uint32_t weights[kAttentionTile / 16][4];
  float leaf[S::kColumns / 2];   ///< sums of weighted values in the current leaf
  float total[S::kColumns / 2];  ///< in the leaves before
  // Of rows g and g + 8. Maxima are of scores in units of log 2; sums are of this thread's columns only.
  float leaf_maximum[2], leaf_sum[2];
  float total_maximum[2], total_sum[2];
  int position[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < S::kColumns / 2; ++i) leaf[i] = total[i] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      leaf_maximum[half] = total_maximum[half] = -INFINITY;
      leaf_sum[half] = total_sum[half] = 0;
    }
  }

  /// Applies the cap, if there is one, and takes away what is not seen. Returns the factor from scores to units of log 2.
  __device__ __forceinline__ float mask(const AttentionParams& p, int first_key, bool hides) {
    const AttentionScale scale = attention_scale(p);
    if (scale.outer > 0) {
#pragma unroll
      for (float& score : scores) score = scale.outer * tanh_by_exp2(score * scale.inner);
    }
    if (hides) {
      const int first = first_key + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
      for (int i = 0; i < kAttentionTile / 2; ++i) {
        if (!attention_sees(position[i / 2 % 2] - first, i / 4 * 8 + i % 2, p.window)) scores[i] = -INFINITY;
      }
    }
    return scale.outer > 0 ? 1.0f : scale.inner;
  }

  /// Scores become weights under the leaf's new maximum; factor: from its old to its new one.
  __device__ __forceinline__ void weigh(float scale, float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float maximum = -INFINITY;
#pragma unroll
      for (int i = 2 * half; i < kAttentionTile / 2; i += 4) maximum = fmaxf(maximum, fmaxf(scores[i], scores[i + 1]));
      maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
      maximum = fmaxf(leaf_maximum[half], maximum * scale);
      factor[half] = attention_rescale(leaf_maximum[half], maximum);
      leaf_maximum[half] = maximum;
      const float offset = maximum == -INFINITY ? 0.0f : -maximum;
      float sums[2] = {0, 0};
#pragma unroll
      for (int i = 2 * half; i < kAttentionTile / 2; i += 4) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          scores[i + j] = gpu::exp2_approx(fmaf(scores[i + j], scale, offset));
          sums[j] += scores[i + j];
        }
      }
      leaf_sum[half] = fmaf(leaf_sum[half], factor[half], sums[0] + sums[1]);
    }
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kAttentionTile / 4; ++i) weights[i / 4][i % 4] = gpu::pack_bf16(scores[2 * i], scores[2 * i + 1]);
  }

  /// Brings the leaf's values to its new maximum.
  __device__ __forceinline__ void rescale_leaf(const float (&factor)[2]) {
    if (!__any_sync(~0u, factor[0] != 1 || factor[1] != 1)) return;
#pragma unroll
    for (int i = 0; i < S::kColumns / 2; ++i) leaf[i] *= factor[i / 2 % 2];
  }

  /// Folds all of the leaf but its values into the total, and empties it; returns the factors for the values.
  __device__ __forceinline__ void fold_sums(AttentionMerge (&merge)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      merge[half] = attention_merge(total_maximum[half], leaf_maximum[half]);
      total_sum[half] = attention_merged(total_sum[half], leaf_sum[half], merge[half]);
      leaf_maximum[half] = -INFINITY;
      leaf_sum[half] = 0;
    }
  }
  __device__ __forceinline__ void fold_values(const AttentionMerge (&merge)[2]) {
#pragma unroll
    for (int i = 0; i < S::kColumns / 2; ++i) {
      total[i] = attention_merged(total[i], leaf[i], merge[i / 2 % 2]);
      leaf[i] = 0;
    }
  }
};

/// One of the two warpgroups that multiply.
template <class S>
class HopperReader {
 public:
  __device__ __forceinline__ HopperReader(const AttentionParams& p, unsigned char* shared)
      : p_(p),
        shared_(shared),
        barriers_(shared),
        warpgroup_(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0)),  // known to be the same in a warp
        part_(S::kParts == 1 ? 0 : warpgroup_),
        first_row_(S::kParts == 1 ? 64 * warpgroup_ : 0) {}

  /// Reads everything that the copying warp copies for this block.
  __device__ __forceinline__ void run() {
    if (warpgroup_ == 1) gpu::named_barrier_arrive(kTurn, kMeeting);  // the first turn is the other's
    while (true) {
      barriers_.queries.wait_full(queries_);
      const HopperTile& tile = reinterpret_cast<const HopperTile*>(shared_ + S::kTilesAt)[queries_.stage];
      if (tile.num_rows == 0) break;
      attend(tile);
      store(tile);
      __syncwarp();
      barriers_.queries.release(queries_);
    }
    if (warpgroup_ == 0) gpu::named_barrier_sync(kTurn, kMeeting);
  }

 private:
  static constexpr unsigned kTurn = 1;       ///< barriers: the turn of warpgroup 0, of 1
  static constexpr unsigned kMeeting = 256;  ///< threads: those of both

  __device__ __forceinline__ void take_turn() const {
    gpu::named_barrier_sync(kTurn + static_cast<unsigned>(warpgroup_), kMeeting);
  }
  __device__ __forceinline__ void end_turn() const {
    gpu::named_barrier_arrive(kTurn + static_cast<unsigned>(1 - warpgroup_), kMeeting);
  }

  /// The first of the thread's rows. Computed anew, not kept in registers over the loop.
  __device__ __forceinline__ int row_of_thread() const {
    const int thread = static_cast<int>(gpu::opaque(threadIdx.x)) % 128;
    return first_row_ + thread / 32 * 16 + thread % 32 / 4;
  }

  /// Asks for scores = q . k of the keys' stage.
  __device__ __forceinline__ void multiply_keys() {
    // Not kept over the loop: so many descriptors take more registers than there are.
    const uint32_t stage = gpu::opaque(static_cast<uint32_t>(queries_.stage));
    const uint64_t q = gpu::matrix_descriptor(shared_ + stage * S::kQueryBytes + first_row_ * 128, 16);
    const uint64_t k = gpu::matrix_descriptor(shared_ + S::kKeysAt + keys_.stage * S::kTileBytes, 16);
#pragma unroll
    for (int i = 0; i < S::kHeadDim / 16; ++i) {
      const auto q_bytes = static_cast<unsigned>(i / 4 * S::kQueryPanelBytes + i % 4 * 32);
      const auto k_bytes = static_cast<unsigned>(i / 4 * S::kTilePanelBytes + i % 4 * 32);
      gpu::wgmma_bf16<gpu::Major::k>(rows_.scores, gpu::advance_descriptor(q, q_bytes), gpu::advance_descriptor(k, k_bytes),
                                     i > 0);
    }
    gpu::wgmma_commit();
  }

  /// Asks for leaf += weights * values of the values' stage.
  __device__ __forceinline__ void multiply_values() {
    const unsigned char* from = shared_ + S::kValuesAt + values_.stage * S::kTileBytes;
    const uint64_t v = gpu::matrix_descriptor(from + part_ * (S::kColumns / 64) * S::kTilePanelBytes, S::kTilePanelBytes);
#pragma unroll
    for (int i = 0; i < kAttentionTile / 16; ++i) {
      const uint64_t rows = gpu::advance_descriptor(v, static_cast<unsigned>(i * 16 * 128));
      gpu::wgmma_bf16<gpu::Major::n>(rows_.leaf, rows_.weights[i], rows, true);
    }
    gpu::wgmma_commit();
  }

  /// Waits for the values of tile j. What was not copied or does not exist becomes 0: its weights are 0, but it may be NaN.
  __device__ __forceinline__ void await_values(const HopperTile& tile, int j) {
    barriers_.values.wait_full(values_);
    const int first = max(tile.valid_begin - j * kAttentionTile, 0), end = tile.valid_end - j * kAttentionTile;
    if (first == 0 && end >= kAttentionTile) return;
    unsigned char* to = shared_ + S::kValuesAt + values_.stage * S::kTileBytes;
#pragma unroll 1
    for (int i = static_cast<int>(gpu::opaque(threadIdx.x)) % 128; i < S::kTileBytes / 16; i += 128) {
      const int key = i / 8 % kAttentionTile;
      if (key < first || key >= end) *reinterpret_cast<uint4*>(to + 16 * i) = make_uint4(0, 0, 0, 0);
    }
    gpu::fence_proxy_async();  // the warpgroup meets before its products: when it takes its turn
  }

  /// From scores of tile j to weights.
  __device__ __forceinline__ void weigh(int j, float (&factor)[2]) {
    const int first_key = j * kAttentionTile;
    // Of the warp's first and last row: lane 0 has the one, lane 31 the other.
    const bool hides = __any_sync(~0u, first_key + kAttentionTile - 1 > rows_.position[0] ||
                                           (p_.window != 0 && first_key <= rows_.position[1] - p_.window));
    rows_.weigh(rows_.mask(p_, first_key, hides), factor);
  }

  /// All keys against the item's rows. Of two groups of products on their way the older one is the scores'.
  __device__ __forceinline__ void attend(const HopperTile& tile) {
    rows_.clear();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(row_of_thread() + 8 * half, tile.num_rows - 1);
      rows_.position[half] = tile.first_position + row / p_.group();
    }
    float factor[2];
    AttentionMerge merge[2];
    barriers_.keys.wait_full(keys_);
    gpu::wgmma_fence();
    multiply_keys();
    gpu::wgmma_wait<0>();
    gpu::wgmma_hold(rows_.scores);
    barriers_.keys.release(keys_);
    weigh(tile.begin, factor);
    rows_.pack_weights();
    const int end = tile.end;
#pragma unroll 1
    for (int j = tile.begin + 1; j < end; ++j) {
      barriers_.keys.wait_full(keys_);
      await_values(tile, j - 1);
      take_turn();
      start_products(true);
      end_turn();
      gpu::wgmma_wait<1>();
      gpu::wgmma_hold(rows_.scores);
      barriers_.keys.release(keys_);
      const bool folds = j % (kAttentionLeaf / kAttentionTile) == 0;
      if (folds) rows_.fold_sums(merge);
      weigh(j, factor);
      // The wait stands in both branches, or the assembler would put it before the weights, which hide it.
      if (folds) {
        finish_values();
        rows_.fold_values(merge);
      } else {
        finish_values();
        rows_.rescale_leaf(factor);
      }
      rows_.pack_weights();
    }
    await_values(tile, end - 1);
    take_turn();
    start_products(false);
    end_turn();
    finish_values();
    rows_.fold_sums(merge);
    rows_.fold_values(merge);
  }

  __device__ __forceinline__ void start_products(bool scores) {
#pragma unroll
    for (auto& weights : rows_.weights) gpu::wgmma_hold(weights);
    gpu::wgmma_hold(rows_.leaf);
    gpu::wgmma_fence();
    if (scores) multiply_keys();
    multiply_values();
  }
  __device__ __forceinline__ void finish_values() {
    gpu::wgmma_wait<0>();
    gpu::wgmma_hold(rows_.leaf);
    barriers_.values.release(values_);
  }

  /// Divides by the sums of weights and writes the rows that exist.
  __device__ __forceinline__ void store(const HopperTile& tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows_.total_sum[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const int row = row_of_thread() + 8 * half;
      if (row >= tile.num_rows) continue;
      const int head = tile.first_head + row % p_.group();
      const float factor = attention_normaliser(rows_.total_maximum[half], sum, p_, head);
      Bf16* out = p_.out + (tile.first_token + row / p_.group()) * p_.out_stride + head * p_.head_dim +
                  static_cast<int>(gpu::opaque(threadIdx.x)) % 4 * 2;
#pragma unroll
      for (int n = 0; n < S::kColumns / 8; ++n) {
        const int column = part_ * S::kColumns + 8 * n;
        const float* values = rows_.total + 4 * n + 2 * half;
        if (column >= p_.head_dim) break;
        *reinterpret_cast<uint32_t*>(out + column) = gpu::pack_bf16(values[0] * factor, values[1] * factor);
      }
    }
  }

  const AttentionParams& p_;
  unsigned char* shared_;
  HopperBarriers<S> barriers_;
  int warpgroup_, part_, first_row_;
  Ring<2> queries_;
  Ring<S::kStages> keys_, values_;
  HopperRows<S> rows_;
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    hopper_prefill_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ CUtensorMap q_map,
                          const __grid_constant__ CUtensorMap kv_map) {
  DYNAMIC_SHARED(shared);
  if (threadIdx.x == 0) HopperBarriers<S>(shared).init();
  __syncthreads();
  gpu::launch_dependents();  // all blocks are there, and the next kernel waits until they have ended
  if (threadIdx.x < 128) {
    gpu::release_registers<56>();
    if (threadIdx.x < 32) {
      HopperStream<S>(p, {&q_map, &kv_map}, shared).run();
    } else {
      gpu::wait_for_grid();
    }
  } else {
    gpu::acquire_registers<224>();
    gpu::wait_for_grid();
    HopperReader<S>(p, shared).run();
  }
}

}  // namespace pagoda::cuda

// Decode attention in two kernels: one computes leaves (attention_decode.cuh), one combines the leaves of sequences that were
// split. The second is parallel over (sequence, head, 32 columns), a warp each, which reads the leaves' states a chunk ahead.
// Bound by memory: reads each state once, mostly from L2. Called by paged_attention.
#include "cuda/attention.h"
#include "cuda/attention_partial.cuh"
#include "cuda/work_list.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kResident = 2;  ///< blocks of a multiprocessor
constexpr int kColumns = 32;  ///< of a warp

/// Of a leaf, one to a lane: what it and the total before it are multiplied with, and its sum of weights.
struct LeafFactors {
  AttentionMerge factors;
  float sum;
};

/// A warp's chunk of 32 leaves, of which `count` exist; `maximum` is the total's before and after them. The maximum of what
/// comes before each leaf is the same in any order, so that all factors are known at once.
__device__ __forceinline__ LeafFactors leaf_factors(float2 scale, int count, float& maximum, int lane) {
  float up_to = lane < count ? scale.x : -INFINITY;
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const float other = __shfl_up_sync(~0u, up_to, offset);
    if (lane >= offset) up_to = fmaxf(up_to, other);
  }
  const float before = __shfl_up_sync(~0u, up_to, 1);
  float total = lane > 0 ? fmaxf(before, maximum) : maximum;
  const LeafFactors result{attention_merge(total, scale.x), scale.y};
  maximum = __shfl_sync(~0u, total, count - 1);
  return result;
}

/// Of one column of a head: what is folded so far, and half a chunk of leaves that is on its way.
struct ColumnTotal {
  float value = 0, sum = 0;

  /// Adds leaves [begin, begin + 16) of a chunk with `count`.
  __device__ __forceinline__ void fold(const float (&values)[16], const LeafFactors& own, int begin, int count) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const AttentionMerge factors{__shfl_sync(~0u, own.factors.total_factor, begin + i),
                                   __shfl_sync(~0u, own.factors.leaf_factor, begin + i)};
      const float leaf_sum = __shfl_sync(~0u, own.sum, begin + i);
      if (begin + i < count) {
        value = attention_merged(value, values[i], factors);
        sum = attention_merged(sum, leaf_sum, factors);
      }
    }
  }
};

/// A column of leaves [first, first + 16), as far as there are `count`.
__device__ __forceinline__ void load_leaves(float (&values)[16], const float* column, int64_t stride, int first, int count) {
  const float* from = column + first * stride;
#pragma unroll
  for (int i = 0; i < 16; ++i, from += stride) values[i] = first + i < count ? *from : 0.0f;
}

/// Folds the leaves of one head into its output, columns [first_column, first_column + 32).
__device__ __forceinline__ void combine(const AttentionParams& p, const WorkItem& item, int head, int first_column, int lane) {
  const int column = first_column + lane, count = item.num_leaves;
  const AttentionPartial partial = attention_partial(p, item.slot, head);
  const float* values = partial.values + min(column, p.head_dim - 1);
  const int64_t stride = int64_t{p.num_heads} * p.head_dim;
  ColumnTotal total;
  float maximum = -INFINITY, even[16], odd[16];
  load_leaves(even, values, stride, 0, count);
  for (int first = 0; first < count; first += 32) {
    load_leaves(odd, values, stride, first + 16, count);
    const float2 scale = partial.scale[int64_t{min(first + lane, count - 1)} * p.num_heads];
    const int here = min(count - first, 32);
    const LeafFactors own = leaf_factors(scale, here, maximum, lane);
    total.fold(even, own, 0, here);
    load_leaves(even, values, stride, first + 32, count);
    total.fold(odd, own, 16, here);
  }
  const float factor = attention_normaliser(maximum, total.sum, p, head);
  Bf16* out = p.out + p.query_start[item.seq] * p.out_stride + static_cast<int64_t>(head) * p.head_dim;
  if (column < p.head_dim) out[column] = from_float<Bf16>(total.value * factor);
}

__global__ void __launch_bounds__(kThreads, kResident) combine_attention_kernel(const __grid_constant__ AttentionParams p) {
  DYNAMIC_SHARED(shared);
  const WorkList list(p, shared);
  const int slices = (p.head_dim + kColumns - 1) / kColumns, of_item = p.num_heads * slices;
  const int end = list.size(WorkList::kSplit) * of_item, lane = static_cast<int>(threadIdx.x) % 32;
  // consecutive units go to consecutive blocks
  int unit = static_cast<int>(threadIdx.x) / 32 * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  gpu::wait_for_grid();
  gpu::launch_dependents();
  for (; unit < end; unit += static_cast<int>(gridDim.x) * (kThreads / 32)) {
    const int part = unit % of_item;
    combine(p, list.at(WorkList::kSplit, unit / of_item), part / slices, part % slices * kColumns, lane);
  }
}

}  // namespace

void decode_attention(const Queue& queue, const AttentionParams& params, DType kv_dtype, int) {
  if (params.head_dim <= 64) {
    launch_decode_attention<64>(queue, params, kv_dtype);
  } else if (params.head_dim <= 96) {
    launch_decode_attention<96>(queue, params, kv_dtype);
  } else if (params.head_dim <= 128) {
    launch_decode_attention<128>(queue, params, kv_dtype);
  } else {
    launch_decode_attention<256>(queue, params, kv_dtype);
  }
  if (params.num_partials == 0) return;
  const auto blocks = static_cast<unsigned>(queue.num_multiprocessors * kResident);
  launch(queue, {blocks, kThreads, WorkList::kSharedBytes}, "combine attention", combine_attention_kernel, params);
}

}  // namespace pagoda::cuda

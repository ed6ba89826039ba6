// Decode attention over the paged cache, for all sequences with one query in the batch: the kernel, a template that
// attention_decode_<head size>.cu instantiate.
// Parallel over (sequence, heads that share a KV head, leaf of 256 keys), or a sequence's leaves together where partials lack
// room: a warp each, on its own. Keys lie on the mma's long side and heads on the short one, so that groups up to 8 waste
// little. Bound by the memory: reads every visible key and value once, 4 * group flops for each of their elements; the state of
// a leaf, written and read once, is 3 % of its keys and values for groups of 4. Warps keep 24 KiB of the cache on their way to
// each of them.
#pragma once

#include <algorithm>

#include "cuda/attention.h"
#include "cuda/attention_decode_leaf.cuh"
#include "cuda/attention_decode_pieces.cuh"
#include "cuda/queue.h"
#include "cuda/work_list.cuh"

namespace pagoda::cuda {

/// What a warp does at a time.
struct DecodeUnit {
  WorkItem item;
  DecodeHeads heads;
  DecodeSpan span;
};

/// The blocks' units, (item, heads): consecutive ones go to consecutive blocks, those of a block to its warps as they become
/// free.
class DecodeUnits {
 public:
  static constexpr int kSharedBytes = WorkList::kSharedBytes + 16;

  /// All threads of the block; has barriers.
  __device__ __forceinline__ DecodeUnits(const AttentionParams& p, unsigned char* shared)
      : p_(p),
        taken_(count_from_warps(shared + WorkList::kSharedBytes)),
        list_(p, shared),
        own_(static_cast<int>(threadIdx.x) / 32) {}

  /// The warp's next unit, of up to `max_heads` heads; false if there is none. Reads index arrays only.
  __device__ __forceinline__ bool next(DecodeUnit& unit, int max_heads) {
    const int group = p_.group(), of_group = (group + max_heads - 1) / max_heads, of_item = of_group * p_.kv_heads;
    const int whole = list_.size(WorkList::kWhole);
    const int index = own_ * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
    if (index >= (whole + list_.size(WorkList::kLeaves)) * of_item) return false;
    const int item = index / of_item, part = index % of_item;
    // whole sequences, which take the longest, come first
    unit.item = list_.at(item < whole ? WorkList::kWhole : WorkList::kLeaves, item < whole ? item : item - whole);
    const int kv_head = part / of_group, first = part % of_group * max_heads;
    unit.heads = {kv_head, kv_head * group + first, min(group - first, max_heads)};
    constexpr int kTiles = kAttentionLeaf / kAttentionTile;
    const int position = p_.kv_len[unit.item.seq] - 1, first_key = p_.window ? max(position - p_.window + 1, 0) : 0;
    unit.span = {unit.item.seq, kv_head, position, max(unit.item.first_leaf * kTiles, first_key / kAttentionTile),
                 min((unit.item.first_leaf + unit.item.num_leaves) * kTiles, position / kAttentionTile + 1)};
    take();
    return true;
  }

 private:
  /// Each warp has one unit; seen by all behind the barriers of the list.
  __device__ static __forceinline__ int* count_from_warps(unsigned char* shared) {
    int* taken = reinterpret_cast<int*>(shared);
    if (threadIdx.x == 0) *taken = static_cast<int>(blockDim.x) / 32;
    return taken;
  }
  __device__ __forceinline__ void take() {
    if (threadIdx.x % 32 == 0) own_ = atomicAdd(taken_, 1);
    own_ = __shfl_sync(~0u, own_, 0);
  }

  const AttentionParams& p_;
  int* taken_;  ///< units of the block that warps have taken
  WorkList list_;
  int own_;  ///< the next unit, as the block counts them
};

/// All that one unit asks for.
template <class S, int kHeadTiles>
__device__ __forceinline__ void attend(const AttentionParams& p, const DecodeUnit& unit, DecodePieces<S>& pieces,
                                       unsigned char* shared, int lane) {
  constexpr int kTiles = kAttentionLeaf / kAttentionTile;
  const int token = p.query_start[unit.span.seq];
  const AttentionScale scale = attention_scale(p);
  const KeyFragments<S> keys(lane);
  const ValueFragments<S> values(lane);
  pieces.start();
  DecodeQueries<S, kHeadTiles> queries;
  queries.load(p, token, unit.heads, lane);
  DecodeLeaf<S, kHeadTiles> leaf;
  DecodeTotal<S, kHeadTiles> total;
  total.values = reinterpret_cast<float4*>(shared) + lane;
  leaf.clear();
#pragma unroll 1
  for (int tile = unit.span.first_tile; tile < unit.span.end_tile; ++tile) {
    DecodeScores<kHeadTiles> scores;
    DecodeWeights<kHeadTiles> weights;
#pragma unroll
    for (int half = 0; half < 2; ++half) multiply_keys<S, kHeadTiles>(scores, half, queries, pieces.await(half), keys);
    scale_scores<kHeadTiles>(scores, p, scale, unit.span.position, tile * kAttentionTile, lane);
    weigh_scores<S, kHeadTiles>(weights, scores, leaf);
#pragma unroll
    for (int half = 0; half < 2; ++half) multiply_values<S, kHeadTiles>(leaf, weights, half, pieces.await(2 + half), values);
    const bool last = tile + 1 == unit.span.end_tile;
    if (unit.item.slot < 0 && (tile % kTiles == kTiles - 1 || last)) {
      fold_leaf(total, leaf, tile / kTiles == unit.item.first_leaf, last);
      if (!last) leaf.clear();
    }
  }
  if (unit.item.slot < 0) {
    store_output<S, kHeadTiles>(p, token, unit.heads, lane, leaf, total);
  } else {
    store_partial<S, kHeadTiles>(p, unit.item.slot, unit.heads, lane, leaf);
  }
}

/// All units of this warp. `shared`: its own part.
template <class S, int kHeadTiles>
__device__ __forceinline__ void attend_all(const AttentionParams& p, DecodeUnits& units, unsigned char* shared) {
  DecodePieces<S> pieces(p, shared);
  DecodeUnit unit;
  while (units.next(unit, 8 * kHeadTiles)) {
    pieces.aim(unit.span);
    gpu::wait_for_grid();
    gpu::launch_dependents();
    attend<S, kHeadTiles>(p, unit, pieces, shared + S::kRingBytes, static_cast<int>(threadIdx.x) % 32);
  }
  gpu::cp_async_wait<0>();
}

template <class S>
__global__ void __launch_bounds__(32 * S::kMaxWarps, 1) decode_attention_kernel(const __grid_constant__ AttentionParams p) {
  DYNAMIC_SHARED(shared);
  const int head_tiles = p.group() > 8 ? S::kMaxHeadTiles : 1, warp_bytes = S::warp_bytes(head_tiles);
  DecodeUnits units(p, shared + static_cast<int>(blockDim.x) / 32 * warp_bytes);
  unsigned char* own = shared + static_cast<int>(threadIdx.x) / 32 * warp_bytes;
  if (head_tiles == 1) {
    attend_all<S, 1>(p, units, own);
  } else {
    attend_all<S, S::kMaxHeadTiles>(p, units, own);
  }
  gpu::wait_for_grid();
}

/// One block of as many warps as fit for each multiprocessor.
template <class Kv, int kHeadDim>
void launch_decode_kernel(const Queue& queue, const AttentionParams& params) {
  using S = DecodeShape<Kv, kHeadDim>;
  const int list_bytes = DecodeUnits::kSharedBytes;
  const int warp_bytes = S::warp_bytes(params.num_heads / params.kv_heads > 8 ? S::kMaxHeadTiles : 1);
  const int warps = std::clamp((static_cast<int>(queue.shared_bytes) - list_bytes) / warp_bytes, 1, S::kMaxWarps);
  launch(queue,
         {static_cast<unsigned>(queue.num_multiprocessors), static_cast<unsigned>(32 * warps),
          static_cast<size_t>(warps * warp_bytes + list_bytes)},
         "decode attention", decode_attention_kernel<S>, params);
}

template <int kHeadDim>
void launch_decode_attention(const Queue& queue, const AttentionParams& params, DType kv_dtype) {
  if (kv_dtype == DType::f16) return launch_decode_kernel<F16, kHeadDim>(queue, params);
  if (kv_dtype == DType::f8_e4m3) return launch_decode_kernel<E4m3, kHeadDim>(queue, params);
  launch_decode_kernel<Bf16, kHeadDim>(queue, params);
}

}  // namespace pagoda::cuda

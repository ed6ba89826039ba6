// Hopper's prefill kernel (attention_prefill_sm90a.cuh): where it applies, its tensor maps, and the launch.
#include <algorithm>

#include "cuda/attention_prefill_sm90a.cuh"
#include "cuda/attention_prefill_sm90a.h"
#include "cuda/tensor_map.h"

namespace pagoda::cuda {
namespace {

/// Rows of an item that make it worth while.
constexpr int kFewestRows = 64;
constexpr int kSmallestBlock = 8;  ///< tokens: a swizzle repeats after 8 rows
constexpr int kMostHeadDim = 256;

bool is_aligned(const void* pointer, int64_t stride, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0 &&
         stride * int64_t{sizeof(Bf16)} % bytes == 0;
}

bool applies(const Queue& queue, const AttentionParams& params, DType kv_dtype, int max_query_len) {
  const int group = params.num_heads / params.kv_heads;
  return queue.compute_capability == 90 && !queue.deterministic && kv_dtype == DType::bf16 && params.head_dim % 8 == 0 &&
         params.head_dim <= kMostHeadDim && 1 << params.block_shift >= kSmallestBlock && group <= kFewestRows &&
         int64_t{max_query_len} * group >= kFewestRows && params.scale > 0 && params.num_tokens > 0 &&
         is_aligned(params.q, params.q_stride, 16) && is_aligned(params.out, params.out_stride, 4) &&
         is_aligned(params.kv, 0, 16);
}

CUtensorMap map_queries(const AttentionParams& params, int rows) {
  const auto dim = static_cast<uint64_t>(params.head_dim);
  const int group = params.num_heads / params.kv_heads;
  TensorBoxes boxes;
  boxes.base = params.q;
  boxes.rank = 3;
  boxes.sizes = {dim, static_cast<uint64_t>(params.num_heads), static_cast<uint64_t>(params.num_tokens)};
  boxes.strides = {0, dim * sizeof(Bf16), static_cast<uint64_t>(params.q_stride) * sizeof(Bf16)};
  boxes.box = {64, static_cast<uint32_t>(group), static_cast<uint32_t>(rows / group)};
  return tensor_map(boxes);
}

/// The number of blocks is not known here: a table that names others would be wrong anyway.
CUtensorMap map_cache(const AttentionParams& params) {
  const auto dim = static_cast<uint64_t>(params.head_dim);
  const uint64_t block_size = uint64_t{1} << params.block_shift, rows = 2 * static_cast<uint64_t>(params.kv_heads) * block_size;
  TensorBoxes boxes;
  boxes.base = params.kv;
  boxes.rank = 3;
  boxes.sizes = {dim, rows, uint64_t{1} << 31};
  boxes.strides = {0, dim * sizeof(Bf16), rows * dim * sizeof(Bf16)};
  boxes.box = {64, static_cast<uint32_t>(std::min<uint64_t>(block_size, kAttentionTile)), 1};
  return tensor_map(boxes);
}

/// A block for each multiprocessor.
template <class S>
void launch_hopper_prefill(const Queue& queue, const AttentionParams& params) {
  launch(queue, {static_cast<unsigned>(queue.num_multiprocessors), S::kThreads, S::kSharedBytes}, "prefill attention",
         hopper_prefill_kernel<S>, params, map_queries(params, S::kRows), map_cache(params));
}

}  // namespace

bool prefill_attention_sm90a(const Queue& queue, const AttentionParams& params, DType kv_dtype, int max_query_len) {
  if (!applies(queue, params, kv_dtype, max_query_len)) return false;
  if (params.head_dim <= 64) {
    launch_hopper_prefill<HopperShape<64, 6>>(queue, params);
  } else if (params.head_dim <= 128) {
    launch_hopper_prefill<HopperShape<128, 4>>(queue, params);
  } else {
    launch_hopper_prefill<HopperShape<256, 2>>(queue, params);
  }
  return true;
}

}  // namespace pagoda::cuda

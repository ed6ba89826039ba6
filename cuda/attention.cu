// Paged attention: parameters of the kernels from an operation's arguments, room for the partial results of decode, and which
// kernels a step needs. A sequence with one query goes to attention_decode.cu, any other to attention_prefill.cu; both sum in
// one order (attention_common.cuh).
#include <algorithm>
#include <bit>

#include "cuda/attention.h"
#include "cuda/attention_partial.cuh"
#include "cuda/kernels.h"

namespace pagoda::cuda {
namespace {

/// More leaves than this do not make a device any busier.
constexpr int64_t kPartialBytes = int64_t{32} << 20;

/// Leaves whose states have room, enough for those of the longest context. The same for a plan and its steps.
int64_t num_partials(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) {
  const int64_t visible = args.window ? std::min<int64_t>(max_context, args.window) : max_context;
  if (num_tokens < 1 || visible <= kAttentionLeaf) return 0;
  int64_t leaves = divide_up(max_context, kAttentionLeaf);
  if (args.window) leaves = std::min(leaves, divide_up(args.window - 1, kAttentionLeaf) + 1);
  const int64_t affordable = kPartialBytes / (int64_t{args.num_heads} * (args.head_dim + 2) * 4);
  return std::min(num_tokens * leaves, std::max(leaves, affordable));
}

/// False if all sequences but one having the longest query leaves that one with more than one, too.
bool may_hold_single(const Batch& batch) { return batch.num_tokens <= (batch.num_seqs - int64_t{1}) * batch.max_query_len + 1; }

}  // namespace

size_t attention_workspace(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) {
  return attention_partial_bytes(num_partials(num_tokens, max_context, args), args.num_heads, args.head_dim);
}

void paged_attention(const Queue& queue, const Tensor& out, const Tensor& q, const AttentionArgs& args, const KvLayer& kv,
                     const Batch& batch, void* workspace) {
  if (batch.num_tokens == 0) return;
  AttentionParams p;
  p.q = q.as<const Bf16>();
  p.num_tokens = batch.num_tokens;
  p.q_stride = q.row_stride;
  p.out = out.as<Bf16>();
  p.out_stride = out.row_stride;
  p.kv = kv.data;
  p.block_shift = std::countr_zero(static_cast<unsigned>(kv.layout.block_size));
  p.query_start = batch.query_start;
  p.kv_len = batch.kv_len;
  p.block_table = batch.block_table;
  p.max_blocks = batch.max_blocks;
  p.num_seqs = batch.num_seqs;
  p.num_heads = args.num_heads;
  p.kv_heads = args.kv_heads;
  p.head_dim = args.head_dim;
  p.scale = args.scale;
  p.window = args.window;
  p.soft_cap = args.soft_cap;
  p.sinks = args.sinks;
  p.partials = static_cast<float*>(workspace);
  p.num_partials = static_cast<int>(num_partials(batch.num_tokens, batch.max_kv_len, args));
  if (batch.max_query_len > 1) prefill_attention(queue, p, kv.layout.dtype, batch.max_query_len);
  if (may_hold_single(batch)) decode_attention(queue, p, kv.layout.dtype, batch.max_query_len);
}

}  // namespace pagoda::cuda

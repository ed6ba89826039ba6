// Prefill attention: sends a batch to Hopper's kernel (attention_prefill_sm90a.cuh) where that applies, or else to the kernel
// (attention_prefill.cuh) whose heads are the next larger ones. Called by attention.cu.
#include "cuda/attention.h"
#include "cuda/attention_prefill.h"
#include "cuda/attention_prefill_sm90a.h"

namespace pagoda::cuda {

void prefill_attention(const Queue& queue, const AttentionParams& params, DType kv_dtype, int max_query_len) {
  if (max_query_len <= 1) return;
  if (prefill_attention_sm90a(queue, params, kv_dtype, max_query_len)) return;
  if (params.head_dim <= 64) return prefill_attention_64(queue, params, kv_dtype);
  if (params.head_dim <= 96) return prefill_attention_96(queue, params, kv_dtype);
  if (params.head_dim <= 128) return prefill_attention_128(queue, params, kv_dtype);
  prefill_attention_256(queue, params, kv_dtype);
}

}  // namespace pagoda::cuda

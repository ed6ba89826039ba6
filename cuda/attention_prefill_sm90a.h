// Prefill attention with Hopper's copy engine and warpgroup products. Called by attention_prefill.cu before anything else.
#pragma once

#include "core/dtype.h"
#include "cuda/attention_common.cuh"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// The same as prefill_attention; false, and nothing is done, where this kernel does not apply: only devices of compute
/// capability 9.0, only a bf16 cache in blocks of 8 tokens or more, heads of a multiple of 8 up to 256 elements, aligned rows,
/// and not where the order of every sum is fixed: its products round as the hardware likes. Needs params.num_tokens.
bool prefill_attention_sm90a(const Queue& queue, const AttentionParams& params, DType kv_dtype, int max_query_len);

}  // namespace pagoda::cuda

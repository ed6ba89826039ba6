// The prefill kernel's launchers by head size; each fills smaller heads up to its own size. Defined in files of their own, so
// that they compile side by side; called by prefill_attention alone.
#pragma once

#include "core/dtype.h"
#include "cuda/attention_common.cuh"
#include "cuda/queue.h"

namespace pagoda::cuda {

void prefill_attention_64(const Queue& queue, const AttentionParams& params, DType kv_dtype);
void prefill_attention_96(const Queue& queue, const AttentionParams& params, DType kv_dtype);
void prefill_attention_128(const Queue& queue, const AttentionParams& params, DType kv_dtype);
void prefill_attention_256(const Queue& queue, const AttentionParams& params, DType kv_dtype);

}  // namespace pagoda::cuda

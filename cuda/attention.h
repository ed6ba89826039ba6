// Launchers of the two attention kernels behind paged_attention: one for sequences with one query in the batch, one for all
// others. Both take a batch as it is and skip the other's sequences, so that nothing about its contents is known at the launch.
// Called by attention.cu and the kernels' tests.
#pragma once

#include "core/dtype.h"
#include "cuda/attention_common.cuh"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// attention_decode.cu: the sequences with exactly one query; max_query_len is not read. Uses params.partials.
void decode_attention(const Queue& queue, const AttentionParams& params, DType kv_dtype, int max_query_len);

/// attention_decode_<kHeadDim>.cu: its main kernel, for heads of up to kHeadDim.
template <int kHeadDim>
void launch_decode_attention(const Queue& queue, const AttentionParams& params, DType kv_dtype);

/// attention_prefill.cu: the sequences with more than one query, at most max_query_len. Does not use params.partials.
void prefill_attention(const Queue& queue, const AttentionParams& params, DType kv_dtype, int max_query_len);

}  // namespace pagoda::cuda

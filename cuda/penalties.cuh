// The changes that a row of logits takes before it is sampled: edits (bias, bans), then repetition, frequency and presence
// penalties, in the operations and the order that SampleRow names. By a block that has the row for itself.
#pragma once

#include "cuda/sample_row.cuh"

namespace pagoda::cuda {

/// A logit of a token of the context, penalised.
__device__ __forceinline__ float penalised(float logit, const SampleRow& row, int32_t output_count) {
  float value = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  if (output_count > 0) {
    value -= row.frequency_penalty * static_cast<float>(output_count);
    value -= row.presence_penalty;
  }
  return value;
}

/// Writes the new logit, saves the old one; returns by how much the number of NaNs and +infinities grows (modulo 2^32).
__device__ __forceinline__ uint32_t replace_logit(float& logit, float value, float& saved) {
  const uint32_t added = (is_bad_key(float_key(value)) ? 1u : 0u) - (is_bad_key(float_key(logit)) ? 1u : 0u);
  saved = logit;
  logit = value;
  return added;
}

/// x[token] += bias for every edit, several of one token in their order.
__device__ __forceinline__ uint32_t apply_edits(float* x, const SampleWork& work, const SampleRow& row) {
  uint32_t bad_added = 0;
  for (int i = row.edits_begin + static_cast<int>(threadIdx.x); i < row.edits_end; i += static_cast<int>(blockDim.x)) {
    const int32_t token = work.edits[i].token;
    if (i > row.edits_begin && work.edits[i - 1].token == token)
      continue;  // the thread of the token's first edit does them all
    float value = x[token];
    for (int j = i; j < row.edits_end && work.edits[j].token == token; ++j) value += work.edits[j].bias;
    bad_added += replace_logit(x[token], value, work.edits_saved[i]);
  }
  return bad_added;
}

__device__ __forceinline__ uint32_t apply_counts(float* x, const SampleWork& work, const SampleRow& row) {
  uint32_t bad_added = 0;
  for (int i = row.counts_begin + static_cast<int>(threadIdx.x); i < row.counts_end; i += static_cast<int>(blockDim.x)) {
    const TokenCount entry = work.counts[i];
    float& logit = x[entry.token];
    bad_added += replace_logit(logit, penalised(logit, row, entry.output_count), work.counts_saved[i]);
  }
  return bad_added;
}

/// Brings the raw logits back, in the reverse order.
__device__ __forceinline__ void undo_edits_and_counts(float* x, const SampleWork& work, const SampleRow& row) {
  for (int i = row.counts_begin + static_cast<int>(threadIdx.x); i < row.counts_end; i += static_cast<int>(blockDim.x)) {
    x[work.counts[i].token] = work.counts_saved[i];
  }
  __syncthreads();
  for (int i = row.edits_begin + static_cast<int>(threadIdx.x); i < row.edits_end; i += static_cast<int>(blockDim.x)) {
    const int32_t token = work.edits[i].token;
    if (i > row.edits_begin && work.edits[i - 1].token == token) continue;
    x[token] = work.edits_saved[i];
  }
}

}  // namespace pagoda::cuda

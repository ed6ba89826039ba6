// What the fused sampling operation reads and writes: one row per logit row, with side lists shared by all rows.
// Filled by sampling/sampler from each sequence's parameters and history. Plain data, so that a device can take it in one
// upload.
#pragma once

#include <cstdint>
#include <vector>

namespace pagoda {

/// A logit to change before anything else: `logit += bias`; a bias of -infinity bans the token.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0;
};

/// One distinct token of a row's context (prompt or output), for the penalties.
struct TokenCount {
  int32_t token = 0;
  int32_t output_count = 0;  ///< occurrences in the output; 0 = only in the prompt
};

/// One row. Order of operations: allowed mask and edits -> repetition -> frequency -> presence -> temperature -> top-k -> top-p
/// -> min-p -> draw.
struct SampleRow {
  float temperature = 1;  ///< 0 = argmax, lowest id wins a tie
  float top_p = 1;        ///< 1 = off
  float min_p = 0;        ///< 0 = off
  float log_min_p = 0;    ///< log(min_p), computed on the host so that every backend uses the same bits; read only if min_p > 0
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  int32_t top_k = 0;                         ///< 0 = off; all ties of the k-th value are kept
  uint64_t key = 0;                          ///< Philox key (from the request's seed and choice)
  uint64_t counter = 0;                      ///< Philox counter: the position of the token to draw
  int32_t forced_token = -1;                 ///< >= 0: do not draw, report this token (prompt logprobs)
  int32_t num_top = -1;                      ///< -1: no logprobs; 0: the chosen token's; n: also the n best
  int32_t edits_begin = 0, edits_end = 0;    ///< range in SampleBatch::edits
  int32_t counts_begin = 0, counts_end = 0;  ///< range in SampleBatch::counts; empty when no penalty is in use
  int32_t mask = -1;                         ///< index of a vocabulary bit mask in SampleBatch::masks, -1 = none
};

/// Rows are in the order of the logits' rows.
struct SampleBatch {
  int32_t vocab_size = 0;
  std::vector<SampleRow> rows;
  std::vector<LogitEdit> edits;
  std::vector<TokenCount> counts;
  std::vector<uint32_t> masks;  ///< each mask is ceil(vocab_size / 32) words; bit 1 = allowed
  int32_t max_top = 0;          ///< largest num_top of any row

  int mask_words() const { return (vocab_size + 31) / 32; }
  void clear() {
    rows.clear();
    edits.clear();
    counts.clear();
    masks.clear();
    max_top = 0;
  }
};

/// Logprobs are natural logs of the softmax of the *raw* logits: before bias, penalties and temperature.
/// They use the same 2^38 fixed-point mass as the draw, so they do not depend on order, threads or batch.
struct SampledRow {
  int32_t token = -1;
  float logprob = 0;     ///< of `token`; only when num_top >= 0
  int32_t rank = 0;      ///< 1 + how many tokens have a larger raw logit; only when num_top >= 0
  bool invalid = false;  ///< a NaN or +infinity in the raw logits, or nothing left to draw from: `token` is meaningless
};

struct SampleResult {
  std::vector<SampledRow> rows;     ///< [R]
  std::vector<int32_t> top_tokens;  ///< [R, max_top], best first, ties by lowest id; -1 past the row's num_top
  std::vector<float> top_logprobs;  ///< [R, max_top]
};

}  // namespace pagoda

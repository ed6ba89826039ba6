// Turns a sequence's parameters and history into rows of the fused sampling operation. Keeps no state of its own beyond the
// token counts. Called by engine/runner for every sequence that needs a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/sample_batch.h"
#include "sampling/params.h"

namespace pagoda {

/// Philox key of choice `choice` of a request: choice 0 uses the seed itself, others a mix, so that n choices differ
/// reproducibly.
uint64_t choice_key(int64_t seed, int32_t choice);

/// Distinct tokens of one sequence's context, kept up to date only when penalties are in use.
class TokenCounts {
 public:
  void add_prompt(std::span<const int32_t> tokens);
  void add_output(int32_t token);
  std::span<const TokenCount> entries() const { return entries_; }

 private:
  int32_t& index_of(int32_t token);
  std::vector<TokenCount> entries_;
  std::vector<int32_t> slots_;  // open-addressing table of indices into entries_, -1 = empty
};

/// What the sampler needs of one sequence. Spans must live until the row was added.
struct SampleSource {
  const SamplingParams* params = nullptr;
  uint64_t key = 0;
  std::span<const int32_t> tokens;  ///< prompt and output so far
  int64_t num_unknown = 0;          ///< tokens between those and the one to draw; then neither penalties nor bad words
  int64_t num_prompt = 0;
  const TokenCounts* counts = nullptr;  ///< set when params->uses_penalties()
  std::span<const std::vector<int32_t>> bad_words;
  std::span<const int32_t> eos_tokens;  ///< the model's end-of-sequence tokens
};

/// Appends the row that draws the next token (position tokens.size() + num_unknown).
void add_sample_row(SampleBatch& batch, const SampleSource& source);

/// Appends a row that reports logprobs of a known token.
void add_forced_row(SampleBatch& batch, int32_t token, int32_t num_top);

}  // namespace pagoda

// The sizes an engine was started with: what a step may hold, and which requests can be served at all.
// Fixed at start-up and read by scheduler, batch builder, runner and the memory plan's caller; safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/request.h"

namespace pagoda {

struct Limits {
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;           ///< most tokens of one sequence, prompt and output
  int64_t max_num_seqs = 0;            ///< most sequences running
  int64_t max_num_batched_tokens = 0;  ///< most tokens in one step
  int64_t max_waiting = 0;             ///< most sequences waiting for their first step
  int64_t num_blocks = 0;
  int64_t block_size = 0;

  /// Prompt positions of one step that may ask for logprobs: each takes a row of logits, and a whole chunk of rows over a large
  /// vocabulary would need more workspace than the model itself.
  static constexpr int64_t kMaxPromptRows = 64;

  /// Most sequences running: each decoding one must get its token in every step.
  int64_t max_running() const;
  /// Most prompt-logprob rows of one step.
  int64_t max_prompt_rows() const;
  /// Most rows of logits of one step; the workspace must be planned for it.
  int64_t max_logit_rows() const;
  /// Most blocks in one sequence's table.
  int64_t max_blocks_per_seq() const;
  /// Bytes of the largest step's index arrays (backend/batch.h).
  size_t batch_bytes() const;

  /// Tokens that one sequence can have when it runs alone: what the model and the KV cache allow.
  int64_t max_context() const;
  /// Output tokens a valid request may make: its max_tokens, or all that fits after the prompt.
  int64_t max_output(const Request& request) const;

  /// Throws InvalidArgument, with numbers, for a request that could never run or names tokens the model does not have.
  void validate(const Request& request) const;
  /// Throws Overloaded when `num_new` more sequences do not fit in a queue of `num_waiting`.
  void check_queue(int64_t num_waiting, int64_t num_new) const;
};

}  // namespace pagoda

// The sizes an engine was started with: what a step may hold, and which requests can be served at all.
// Fixed at start-up and read by scheduler, batch builder, runner and the memory plan's caller; safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/request.h"

namespace pagoda {

/// What waits for its first step.
struct QueueLength {
  int64_t num_seqs = 0;
  int64_t num_tokens = 0;      ///< of their prompts
  double seconds_per_seq = 0;  ///< how often one starts; 0 = not known
};

struct Limits {
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;           ///< most tokens of one sequence, prompt and output
  int64_t max_num_seqs = 0;            ///< most sequences running
  int64_t max_num_batched_tokens = 0;  ///< most tokens in one step
  int64_t max_num_queued_seqs = 0;     ///< most sequences waiting for their first step
  int64_t num_blocks = 0;
  int64_t block_size = 0;
  int64_t num_swap_blocks = 0;        ///< blocks on the host for preempted sequences
  int64_t watermark_blocks = 0;       ///< blocks that stay free when a sequence starts beside others
  int64_t max_num_queued_tokens = 0;  ///< most prompt tokens waiting for their first step; 0 = any number
  int64_t max_prefill_chunk = 0;      ///< most tokens of one prompt in one step; 0 = any number
  int64_t max_draft_per_seq = 0;      ///< most draft tokens of one sequence in one step; 0 = there are none

  /// Prompt positions of one step that may ask for logprobs: each takes a row of logits, and a whole chunk of rows over a large
  /// vocabulary would need more workspace than the model itself.
  static constexpr int64_t kMaxPromptRows = 64;
  /// Draft tokens of one step, which take a row each too. A batch that fills its rows without them gains nothing by them.
  static constexpr int64_t kMaxDraftRows = 64;

  /// Most sequences running: each decoding one must get its token in every step.
  int64_t max_running() const;
  /// Most prompt-logprob rows of one step.
  int64_t max_prompt_rows() const;
  /// Most draft tokens of one step.
  int64_t max_draft_rows() const;
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
  /// Throws Overloaded, with place and expected wait, when the request's sequences do not fit in the queue.
  void check_queue(const QueueLength& queue, const Request& request) const;
};

}  // namespace pagoda

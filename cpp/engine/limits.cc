// Sizes derived from the limits, and the checks that decide whether a request is taken.
#include "engine/limits.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/check.h"

namespace pagoda {
namespace {

void validate_tokens(const char* what, const std::vector<int32_t>& tokens, int64_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    require(tokens[i] >= 0 && tokens[i] < vocab_size, what, " must hold token ids in [0, ", vocab_size, "), got ", tokens[i],
            " at position ", i);
  }
}

}  // namespace

int64_t Limits::max_running() const { return std::min(max_num_seqs, max_num_batched_tokens); }

int64_t Limits::max_prompt_rows() const { return std::min(kMaxPromptRows, max_num_batched_tokens); }

int64_t Limits::max_draft_rows() const { return std::min(kMaxDraftRows, max_draft_per_seq * max_running()); }

int64_t Limits::max_logit_rows() const {
  return std::min(max_running() + max_prompt_rows() + max_draft_rows(), max_num_batched_tokens);
}

int64_t Limits::max_blocks_per_seq() const { return (max_context() + block_size - 1) / block_size; }

size_t Limits::batch_bytes() const {
  const int64_t per_token = 4 * max_num_batched_tokens;                    // token_ids, positions, slots, token_sources
  const int64_t per_seq = max_running() * (2 + max_blocks_per_seq()) + 1;  // query_start, kv_len, block_table
  const int64_t some_rows = std::min(max_logit_rows(), max_num_batched_tokens - 1);
  const int64_t selection = 2 * some_rows + max_running() + 1;  // logit_rows, logit_positions, logit_start
  return sizeof(int32_t) * static_cast<size_t>(per_token + per_seq + selection);
}

int64_t Limits::max_context() const { return std::min(max_model_len, num_blocks * block_size); }

int64_t Limits::max_output(const Request& request) const {
  if (request.pooling != Pooling::none) return 0;
  return request.params.max_tokens.value_or(max_context() - std::ssize(request.prompt));
}

void Limits::validate(const Request& request) const {
  const SamplingParams& params = request.params;
  params.validate();
  params.validate_for_vocab(vocab_size);
  require(params.seed.has_value(), "seed must be set");
  require(params.n <= max_num_queued_seqs, "n must be <= max_num_queued_seqs = ", max_num_queued_seqs, ", got ", params.n);
  require(!request.prompt.empty(), "prompt must hold at least one token");
  validate_tokens("prompt", request.prompt, vocab_size);
  for (const auto& word : request.bad_words) validate_tokens("bad_words", word, vocab_size);

  // Differences, not sums: max_tokens may be as large as an integer gets.
  const int64_t num_prompt = std::ssize(request.prompt);
  const bool pools = request.pooling != Pooling::none;
  const int64_t num_output = pools ? 0 : params.max_tokens.value_or(1), fewest_output = pools ? 0 : 1;
  require(!pools || params.n == 1, "n must be 1 for an embedding, got ", params.n);
  require(!pools || !params.prompt_logprobs, "prompt_logprobs must not be set for an embedding");
  require(num_prompt + fewest_output <= max_model_len, "This model's maximum context length is ", max_model_len,
          pools ? " tokens" : " tokens, output included", ". However, your prompt has ", num_prompt, " tokens.");
  require(num_output <= max_model_len - num_prompt, "This model's maximum context length is ", max_model_len,
          " tokens. However, your request has ", num_prompt, " tokens in the prompt and max_tokens = ", num_output, ".");
  require(num_output <= max_context() - num_prompt, "The KV cache holds ", num_blocks * block_size,
          " tokens. However, your request has ", num_prompt, " tokens in the prompt and max_tokens = ", num_output, ".");
}

void Limits::check_queue(const QueueLength& queue, const Request& request) const {
  const int64_t num_new = request.params.n, num_new_tokens = num_new * std::ssize(request.prompt);
  const double wait = queue.seconds_per_seq * static_cast<double>(queue.num_seqs + 1);
  std::string place = str("; its place would be ", queue.num_seqs + 1);
  if (wait > 0) place += str(", its wait about ", std::ceil(wait), " s");
  const double retry_after = std::max(1.0, std::ceil(queue.seconds_per_seq * static_cast<double>(num_new)));
  if (queue.num_seqs + num_new > max_num_queued_seqs) {
    throw Overloaded(str("the waiting queue is full: max_num_queued_seqs = ", max_num_queued_seqs, ", ", queue.num_seqs,
                         " waiting, ", num_new, " more asked for", place),
                     retry_after);
  }
  // A prompt that is longer than the whole queue may wait alone.
  if (max_num_queued_tokens && queue.num_seqs && queue.num_tokens + num_new_tokens > max_num_queued_tokens) {
    throw Overloaded(str("the waiting queue is full: max_num_queued_tokens = ", max_num_queued_tokens, ", ", queue.num_tokens,
                         " prompt tokens waiting, ", num_new_tokens, " more asked for", place),
                     retry_after);
  }
}

}  // namespace pagoda

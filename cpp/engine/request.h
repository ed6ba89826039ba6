// Plain data between the engine and its callers (bindings): a request in, outputs back.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sampling/params.h"

namespace pagoda {

using TimePoint = std::chrono::steady_clock::time_point;

class MaskExchange;

/// How the last hidden states of a prompt, normed, become one vector.
enum class Pooling : uint8_t {
  none,
  mean,  ///< of all tokens
  last,  ///< that of the last token
};

/// One request: a prompt, and n choices of continuations. `params.seed` must be set (the caller draws one from entropy if the
/// user gave none, and reports it). Choice i uses choice_key(seed, i).
struct Request {
  std::string id;               ///< unique among live requests
  std::vector<int32_t> prompt;  ///< at least one token
  SamplingParams params;
  std::vector<std::vector<int32_t>> bad_words;  ///< params.bad_words as token sequences
  std::string tenant;                           ///< on whose behalf; the policy "fair" shares the engine among tenants
  Pooling pooling = Pooling::none;              ///< not none: the prompt's embedding is wanted instead of a continuation
  TimePoint arrival = {};                       ///< set by Engine::submit
  std::shared_ptr<MaskExchange> masks;          ///< set: whose workers say before each token which ones are allowed
};

/// Stands for every choice of a request where one choice could be named.
constexpr int32_t kAllChoices = -1;

enum class FinishReason : uint8_t { none, stop, length, abort, error };

struct TokenLogprobs {
  float logprob = 0;                ///< of the token itself
  int32_t rank = 0;                 ///< 1 = most likely
  std::vector<int32_t> top_tokens;  ///< best first
  std::vector<float> top_logprobs;
};

/// What one step produced for one choice of a request. Exactly one output of a choice has finish != none, and it is the last.
struct Output {
  std::string request_id;
  int32_t choice = 0;
  std::vector<int32_t> tokens;                 ///< new tokens, in order; empty for an abort or error
  std::vector<TokenLogprobs> logprobs;         ///< one per token when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  ///< on choice 0's first output: of prompt tokens 1..end, when asked for
  FinishReason finish = FinishReason::none;
  int32_t stop_token = -1;          ///< the stop or end-of-sequence token that ended it, if one did
  int32_t num_cached_tokens = 0;    ///< prompt tokens taken from the prefix cache at first scheduling
  int64_t num_prompt_computed = 0;  ///< > 0: nothing but news that so many prompt tokens are computed, fewer than there are
  std::vector<float> embedding;     ///< [hidden size], on the only output of a request with pooling that ends well
  std::string error;                ///< text when finish == error
};

}  // namespace pagoda

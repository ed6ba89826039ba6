// The parameters of one request: what to generate, how to choose tokens, when to stop.
// One row per parameter in `fields()`; validation, Python, YAML/JSON, `--help` and the reference page are made from the rows.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/fields.h"

namespace pagoda {

struct SamplingParams {
  int64_t n = 1;
  double temperature = 1;
  double top_p = 1;
  int64_t top_k = 0;
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::optional<int64_t> seed;
  std::map<int64_t, double> logit_bias;
  std::vector<int64_t> allowed_token_ids;
  std::vector<std::string> bad_words;
  int64_t min_tokens = 0;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  std::optional<int64_t> logprobs;
  std::optional<int64_t> prompt_logprobs;
  std::string guided_json;
  std::string guided_regex;
  std::vector<std::string> guided_choice;
  std::string guided_grammar;
  int64_t priority = 0;
  std::string cache_salt;

  /// Temperatures below this are treated as 0: exp((l - max) / T) would only be 0 or 1 anyway.
  static constexpr double kGreedyTemperature = 1e-5;
  static constexpr size_t kMaxStops = 16;
  static constexpr size_t kMaxStopChars = 256;
  static constexpr size_t kMaxListTokens = 4096;
  static constexpr size_t kMaxSaltBytes = 256;
  static constexpr size_t kMaxGrammarBytes = 1 << 20;

  static constexpr auto fields();

  /// Checks every range and list that does not depend on a model. Throws InvalidArgument naming the parameter.
  void validate() const;
  /// Checks token ids and counts against the model. Throws InvalidArgument naming the parameter.
  void validate_for_vocab(int64_t vocab_size) const;

  bool greedy() const { return temperature < kGreedyTemperature || top_k == 1; }
  /// The output must have a given form.
  bool is_guided() const {
    return !guided_json.empty() || !guided_regex.empty() || !guided_choice.empty() || !guided_grammar.empty();
  }
  bool uses_penalties() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

constexpr auto SamplingParams::fields() {
  using P = SamplingParams;
  return std::tuple{
      field("n", &P::n, Range::closed(1, 128), "number of completions to generate for the prompt"),
      field("temperature", &P::temperature, Range::closed(0, 2),
            "divides the logits before the softmax: 0 = argmax (lowest id wins a tie), 1 = the model's own distribution, above "
            "1 = flatter"),
      field("top_p", &P::top_p, Range::left_open(0, 1),
            "keep the smallest set of most likely tokens whose mass reaches top_p; 1 = off"),
      field("top_k", &P::top_k, Range::at_least(-1), "keep the k most likely tokens; 0 or -1 = off, 1 = greedy"),
      field("min_p", &P::min_p, Range::closed(0, 1), "drop tokens less likely than min_p times the most likely one; 0 = off"),
      field("repetition_penalty", &P::repetition_penalty, Range::above(0),
            "divides positive and multiplies negative logits of tokens in prompt or output; 1 = off"),
      field("presence_penalty", &P::presence_penalty, Range::closed(-2, 2),
            "subtracted once from the logit of every token in the output"),
      field("frequency_penalty", &P::frequency_penalty, Range::closed(-2, 2),
            "subtracted from a token's logit once per occurrence in the output"),
      field("seed", &P::seed,
            "same seed and parameters give the same tokens, whatever else runs; unset = from entropy, reported back"),
      field("logit_bias", &P::logit_bias, "token id -> number added to its logit, clamped to [-100, 100]; -100 bans the token"),
      field("allowed_token_ids", &P::allowed_token_ids, "only these tokens may be generated; empty = all"),
      field("bad_words", &P::bad_words, "words (token sequences) that must not be generated"),
      field("min_tokens", &P::min_tokens, Range::at_least(0), "no end-of-sequence and no stop before this many tokens"),
      field("max_tokens", &P::max_tokens, Range::at_least(1), "most tokens to generate; unset = up to the model's context"),
      field("stop", &P::stop, "strings that end the generation; not part of the output"),
      field("stop_token_ids", &P::stop_token_ids, "tokens that end the generation"),
      field("ignore_eos", &P::ignore_eos, "go on after the end-of-sequence token"),
      field("include_stop_str_in_output", &P::include_stop_str_in_output,
            "keep the matched stop string at the end of the output"),
      field("skip_special_tokens", &P::skip_special_tokens, "leave special tokens out of the text"),
      field("logprobs", &P::logprobs, Range::closed(0, 64),
            "report the chosen token's log probability and this many best alternatives"),
      field("prompt_logprobs", &P::prompt_logprobs, Range::closed(0, 64), "the same for every prompt token after the first"),
      field("guided_json", &P::guided_json, "JSON text of a JSON schema that the output must satisfy"),
      field("guided_regex", &P::guided_regex, "regular expression that the whole output must match"),
      field("guided_choice", &P::guided_choice, "texts of which the output must be one"),
      field("guided_grammar", &P::guided_grammar, "context-free grammar, as llguidance's Lark, that the output must follow"),
      field("priority", &P::priority, "lower runs first when the engine's scheduling_policy is priority"),
      field("cache_salt", &P::cache_salt, "prefix-cache blocks are shared only between requests with the same salt"),
  };
}

}  // namespace pagoda

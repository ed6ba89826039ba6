// Validation of sampling parameters, at the edge, once.
#include "sampling/params.h"

#include "core/check.h"

namespace pagoda {
namespace {

void validate_tokens(const char* name, const std::vector<int64_t>& tokens, int64_t vocab_size) {
  for (int64_t token : tokens) {
    require(token >= 0 && token < vocab_size, name, " must hold token ids in [0, ", vocab_size, "), got ", token);
  }
}

void validate_list_size(const char* name, size_t size, size_t limit) {
  require(size <= limit, name, " may have at most ", limit, " entries, got ", size);
}

/// At most one form of the output is given, of a size that can be compiled.
void validate_guided(const SamplingParams& params) {
  const int num_given = !params.guided_json.empty() + !params.guided_regex.empty() + !params.guided_choice.empty() +
                        !params.guided_grammar.empty();
  require(num_given <= 1, "guided_json, guided_regex, guided_choice and guided_grammar exclude each other, got ", num_given);
  size_t choice_bytes = 0;
  for (const std::string& text : params.guided_choice) {
    require(!text.empty(), "guided_choice must not hold an empty string");
    choice_bytes += text.size();
  }
  validate_list_size("guided_choice", params.guided_choice.size(), SamplingParams::kMaxListTokens);
  const auto validate_size = [](const char* name, size_t size) {
    constexpr size_t kMost = SamplingParams::kMaxGrammarBytes;
    require(size <= kMost, name, " may have at most ", kMost, " bytes, got ", size);
  };
  validate_size("guided_json", params.guided_json.size());
  validate_size("guided_regex", params.guided_regex.size());
  validate_size("guided_choice", choice_bytes);
  validate_size("guided_grammar", params.guided_grammar.size());
}

}  // namespace

void SamplingParams::validate() const {
  validate_ranges(*this);
  validate_list_size("stop", stop.size(), kMaxStops);
  for (const std::string& text : stop) {
    require(!text.empty(), "stop must not hold an empty string");
    require(text.size() <= kMaxStopChars, "stop strings may have at most ", kMaxStopChars, " bytes, got ", text.size());
  }
  validate_list_size("bad_words", bad_words.size(), kMaxListTokens);
  for (const std::string& word : bad_words) require(!word.empty(), "bad_words must not hold an empty string");
  validate_list_size("stop_token_ids", stop_token_ids.size(), kMaxListTokens);
  validate_list_size("logit_bias", logit_bias.size(), kMaxListTokens);
  for (const auto& [token, bias] : logit_bias) {
    require(Range::any().contains(bias), "logit_bias of token ", token, " must be finite, got ", bias);
  }
  require(cache_salt.size() <= kMaxSaltBytes, "cache_salt may have at most ", kMaxSaltBytes, " bytes, got ", cache_salt.size());
  validate_guided(*this);
  require(!max_tokens || min_tokens <= *max_tokens, "min_tokens must be <= max_tokens, got ", min_tokens, " and ",
          max_tokens.value_or(0));
}

void SamplingParams::validate_for_vocab(int64_t vocab_size) const {
  validate_tokens("allowed_token_ids", allowed_token_ids, vocab_size);
  validate_tokens("stop_token_ids", stop_token_ids, vocab_size);
  for (const auto& [token, bias] : logit_bias) {
    require(token >= 0 && token < vocab_size, "logit_bias must name token ids in [0, ", vocab_size, "), got ", token);
  }
}

}  // namespace pagoda

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

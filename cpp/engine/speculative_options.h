// What can be chosen about speculative decoding: one option of the engine, with rows of its own (options.h).
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "core/fields.h"

namespace pagoda {

struct SpeculativeOptions {
  std::string method = "ngram";
  int64_t num_speculative_tokens = 5;
  int64_t prompt_lookup_max = 4;
  int64_t prompt_lookup_min = 2;

  static constexpr auto fields();

  /// Throws InvalidArgument naming the option.
  void validate() const {
    validate_ranges(*this);
    require(method == "ngram", "method must be ngram, got \"", method, "\"");
    require(prompt_lookup_min <= prompt_lookup_max, "prompt_lookup_min must be <= prompt_lookup_max = ", prompt_lookup_max,
            ", got ", prompt_lookup_min);
  }
};

constexpr auto SpeculativeOptions::fields() {
  using O = SpeculativeOptions;
  return std::tuple{
      field("method", &O::method, "ngram: guess what followed the newest tokens when they occurred before"),
      field("num_speculative_tokens", &O::num_speculative_tokens, Range::closed(1, 64),
            "most tokens guessed for a sequence in one step; fewer where guesses do not come true"),
      field("prompt_lookup_max", &O::prompt_lookup_max, Range::closed(1, 64), "most newest tokens that are looked up"),
      field("prompt_lookup_min", &O::prompt_lookup_min, Range::closed(1, 64), "fewest newest tokens that are looked up"),
  };
}

}  // namespace pagoda

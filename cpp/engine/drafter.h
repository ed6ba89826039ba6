// Guesses how a sequence goes on: as it did after its last tokens when they stood in it before (prompt lookup). Also knows how
// often such guesses come true, whether a step tried them or not. One per sequence, used by the scheduler. Engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pagoda {

struct DraftRules {
  int64_t max_tokens = 0;  ///< most draft tokens of a sequence in one step; 0 = nothing is guessed
  int64_t lookup_max = 0;  ///< most tokens at the end of a sequence that are looked up
  int64_t lookup_min = 0;  ///< fewest, at least 1
};

class Drafter {
 public:
  /// Guesses what follows `tokens`: up to rules.max_tokens tokens, none if the last lookup_min of them stand nowhere else. Of
  /// all places the longest match counts, of these the latest. Reads 4 bytes per token, where attention reads some thousand.
  void guess(std::span<const int32_t> tokens, const DraftRules& rules);
  /// Learns from what came (at least one token) where the guess was.
  void learn(std::span<const int32_t> came);
  void forget() { guessed_.clear(); }

  std::span<const int32_t> guessed() const { return guessed_; }
  /// How many tokens of the guess are worth their place in a step: those whose chance to come true, with all before them, is
  /// larger than `price`, the cost of a place in units of a token's (StepCost::token_price).
  int64_t num_worthwhile(double price) const;
  /// Expected share of guessed tokens that come true, each after those before it did.
  double acceptance() const { return acceptance_; }

 private:
  std::vector<int32_t> guessed_;
  double acceptance_ = 0.5;
};

}  // namespace pagoda

// Prompt lookup: one scan for the last token, matches compared backwards from there.
#include "engine/drafter.h"

#include <algorithm>
#include <cstddef>

namespace pagoda {
namespace {

/// How many tokens before `end` and `other_end` are equal, at most `most`.
int64_t match_length(std::span<const int32_t> tokens, int64_t end, int64_t other_end, int64_t most) {
  int64_t length = 0;
  while (length < most && length < other_end &&
         tokens[static_cast<size_t>(end - 1 - length)] == tokens[static_cast<size_t>(other_end - 1 - length)])
    ++length;
  return length;
}

}  // namespace

void Drafter::guess(std::span<const int32_t> tokens, const DraftRules& rules) {
  guessed_.clear();
  const int64_t num_tokens = std::ssize(tokens);
  int64_t best_length = rules.lookup_min - 1, best_end = 0;
  for (int64_t end = num_tokens - 1; end > best_length && best_length < rules.lookup_max; --end) {
    if (tokens[static_cast<size_t>(end - 1)] != tokens.back()) continue;
    const int64_t length = match_length(tokens, num_tokens, end, rules.lookup_max);
    if (length > best_length) best_length = length, best_end = end;
  }
  if (best_end == 0) return;
  // A match that overlaps the end is a repetition: it goes on with its own guess.
  for (int64_t at = best_end; at < best_end + rules.max_tokens; ++at) {
    guessed_.push_back(at < num_tokens ? tokens[static_cast<size_t>(at)] : guessed_[static_cast<size_t>(at - num_tokens)]);
  }
}

void Drafter::learn(std::span<const int32_t> came) {
  constexpr double kWeight = 1.0 / 8;
  for (size_t i = 0; i < std::min(came.size(), guessed_.size()); ++i) {
    const bool is_true = guessed_[i] == came[i];
    acceptance_ += kWeight * ((is_true ? 1.0 : 0.0) - acceptance_);
    if (!is_true) break;
  }
}

int64_t Drafter::num_worthwhile(double price) const {
  int64_t count = 0;
  double chance = 1;
  while (count < std::ssize(guessed_) && (chance *= acceptance_) > price) ++count;
  return count;
}

}  // namespace pagoda

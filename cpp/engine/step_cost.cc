// Exponentially weighted linear regression, pulled towards a guess where the steps are all of one size.
#include "engine/step_cost.h"

#include <algorithm>

namespace pagoda {
namespace {

constexpr double kUnknownPrice = 0.2;  // of a token, where nothing has been seen
constexpr double kMemory = 200;        // steps
constexpr double kDoubt = 0.05;        // variance of tokens at which what was seen counts as much as the guess

}  // namespace

void StepCost::add(int64_t num_tokens, double seconds) {
  const auto tokens = static_cast<double>(num_tokens);
  // A step that was held up, by other programs say, must not look like the price of its tokens.
  if (const double expected = line_at(tokens); expected > 0) {
    if (seconds < expected / 2) *this = {};  // the others were
    seconds = std::min(seconds, 2 * expected);
  }
  weight_ = std::min(weight_ + 1, kMemory);
  const double share = 1 / weight_, off = tokens - mean_tokens_, late = seconds - mean_seconds_;
  mean_tokens_ += share * off;
  mean_seconds_ += share * late;
  variance_ = (1 - share) * (variance_ + share * off * off);
  covariance_ = (1 - share) * (covariance_ + share * off * late);
  const double guess = kUnknownPrice * mean_seconds_ / mean_tokens_;
  slope_ = std::clamp((covariance_ + kDoubt * guess) / (variance_ + kDoubt), 0.0, mean_seconds_ / mean_tokens_);
}

double StepCost::token_price(int64_t num_seqs) const {
  const auto tokens = static_cast<double>(num_seqs);
  const double seconds = line_at(tokens);
  return seconds > 0 ? tokens * slope_ / seconds : kUnknownPrice;
}

}  // namespace pagoda

// What one more token costs in a step that only decodes: a line through the recent steps' seconds over their tokens.
// Fed by the engine loop, asked by the scheduler. Engine thread only.
#pragma once

#include <cstdint>

namespace pagoda {

class StepCost {
 public:
  /// A step of `num_tokens` >= 1 tokens took `seconds`.
  void add(int64_t num_tokens, double seconds);
  /// What one more token costs a step of `num_seqs` >= 1 sequences with one token each, in units of what each of those takes,
  /// in [0, 1]: near 0 if the step is bound by reading weights, 1 if by arithmetic.
  double token_price(int64_t num_seqs) const;

 private:
  double line_at(double num_tokens) const { return mean_seconds_ + slope_ * (num_tokens - mean_tokens_); }

  double weight_ = 0;  // of all steps added; older ones count less
  double mean_tokens_ = 0, mean_seconds_ = 0;
  double variance_ = 0, covariance_ = 0;  // of tokens; of tokens and seconds
  double slope_ = 0;                      // seconds per token
};

}  // namespace pagoda

// Rotary tables on the host, once at load.
#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace pagoda {
namespace {

/// The blended frequency: `kept` of the original one, the rest divided by the factor.
double blend(const RopeConfig& rope, double frequency, double kept) {
  kept = std::fmin(1.0, std::fmax(0.0, kept));
  return kept * frequency + (1 - kept) * frequency / rope.factor;
}

double pair_frequency(double theta, int rotary_dim, size_t pair) {
  return std::pow(theta, -2.0 * static_cast<double>(pair) / rotary_dim);
}

double llama3_frequency(const RopeConfig& rope, double frequency) {
  const double turns = rope.original_context * frequency / (2 * std::numbers::pi);  // within the original context
  return blend(rope, frequency, (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor));
}

/// The pair, as a real number, that makes `turns` full turns within the original context.
double yarn_pair(const RopeConfig& rope, double turns) {
  return rope.rotary_dim * std::log(rope.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
}

double yarn_frequency(const RopeConfig& rope, double frequency, double pair) {
  double low = yarn_pair(rope, rope.beta_fast), high = yarn_pair(rope, rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::fmax(low, 0);
  high = std::fmin(high, rope.rotary_dim - 1);
  if (low == high) high += 0.001;
  return blend(rope, frequency, 1 - (pair - low) / (high - low));
}

/// The base of a context of `length` tokens.
double dynamic_theta(const RopeConfig& rope, double length) {
  const double stretch = rope.factor * std::fmax(length, rope.original_context) / rope.original_context - (rope.factor - 1);
  return rope.theta * std::pow(stretch, rope.rotary_dim / (rope.rotary_dim - 2.0));
}

void check_divisors(const std::vector<float>& divisors, size_t num_pairs, const char* name) {
  require(divisors.empty() || divisors.size() == num_pairs, name, " has ", divisors.size(), " factors, wanted ", num_pairs);
}

}  // namespace

std::vector<float> llama3_divisors(const RopeConfig& rope) {
  std::vector<float> divisors(static_cast<size_t>(rope.rotary_dim / 2));
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double frequency = pair_frequency(rope.theta, rope.rotary_dim, i);
    divisors[i] = static_cast<float>(frequency / llama3_frequency(rope, frequency));
  }
  return divisors;
}

std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t num_positions) {
  const auto num_pairs = static_cast<size_t>(rope.rotary_dim / 2);
  const std::vector<float> own = rope.scaling == RopeScaling::llama3 ? llama3_divisors(rope) : std::vector<float>{};
  const std::vector<float>* divisors = own.empty() ? &rope.divisors : &own;
  check_divisors(rope.divisors, num_pairs, "rope_freqs");
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::longrope) {
    const bool is_long = static_cast<double>(num_positions) > rope.original_context;
    divisors = is_long ? &rope.long_divisors : &rope.short_divisors;
    require(divisors->size() == num_pairs, "rope scaling: ", is_long ? "long_factor" : "short_factor", " has ",
            divisors->size(), " factors, wanted ", num_pairs);
  }
  if (rope.scaling == RopeScaling::dynamic) theta = dynamic_theta(rope, static_cast<double>(num_positions));
  std::vector<double> frequencies(num_pairs);
  for (size_t i = 0; i < num_pairs; ++i) {
    double frequency = pair_frequency(theta, rope.rotary_dim, i);
    if (rope.scaling == RopeScaling::linear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::yarn) frequency = yarn_frequency(rope, frequency, static_cast<double>(i));
    if (!divisors->empty()) frequency /= static_cast<double>((*divisors)[i]);
    frequencies[i] = frequency;
  }
  return frequencies;
}

std::vector<float> make_rope_table(const RopeConfig& rope, int64_t num_positions) {
  std::vector<double> frequencies = rope_frequencies(rope, rope.scaling == RopeScaling::dynamic ? 1 : num_positions);
  const auto num_pairs = frequencies.size();
  const auto factor = static_cast<float>(rope.attention_factor);
  std::vector<float> table(static_cast<size_t>(num_positions) * num_pairs * 2);
  for (int64_t position = 0; position < num_positions; ++position) {
    if (rope.scaling == RopeScaling::dynamic && static_cast<double>(position) >= rope.original_context) {
      frequencies = rope_frequencies(rope, position + 1);
    }
    float* row = table.data() + static_cast<size_t>(position) * num_pairs * 2;
    for (size_t i = 0; i < num_pairs; ++i) {
      const float angle = static_cast<float>(position) * static_cast<float>(frequencies[i]);
      row[i] = std::cos(angle) * factor;
      row[num_pairs + i] = std::sin(angle) * factor;
    }
  }
  return table;
}

}  // namespace pagoda

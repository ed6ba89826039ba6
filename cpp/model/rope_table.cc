// Rotary tables on the host, once at load.
#include "model/rope_table.h"

#include <cmath>
#include <numbers>

#include "core/check.h"

namespace pagoda {

std::vector<double> rope_frequencies(const RopeConfig& rope) {
  const auto num_pairs = static_cast<size_t>(rope.rotary_dim / 2);
  require(rope.divisors.empty() || rope.divisors.size() == num_pairs, "rope_freqs has ", rope.divisors.size(),
          " factors, wanted ", num_pairs);
  std::vector<double> frequencies(num_pairs);
  for (size_t i = 0; i < num_pairs; ++i) {
    double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / rope.rotary_dim);
    if (rope.scaling == RopeScaling::linear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::llama3) {
      const double wavelength = 2 * std::numbers::pi / frequency;
      const double turns = rope.original_context / wavelength;  // full turns within the original context
      const double blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      const double kept = std::fmin(1.0, std::fmax(0.0, blend));
      frequency = kept * frequency + (1 - kept) * frequency / rope.factor;
    }
    if (!rope.divisors.empty()) frequency /= static_cast<double>(rope.divisors[i]);
    frequencies[i] = frequency;
  }
  return frequencies;
}

std::vector<float> make_rope_table(const RopeConfig& rope, int64_t num_positions) {
  const std::vector<double> frequencies = rope_frequencies(rope);
  const auto num_pairs = frequencies.size();
  std::vector<float> table(static_cast<size_t>(num_positions) * num_pairs * 2);
  for (int64_t position = 0; position < num_positions; ++position) {
    float* row = table.data() + static_cast<size_t>(position) * num_pairs * 2;
    for (size_t i = 0; i < num_pairs; ++i) {
      const float angle = static_cast<float>(position) * static_cast<float>(frequencies[i]);
      row[i] = std::cos(angle);
      row[num_pairs + i] = std::sin(angle);
    }
  }
  return table;
}

}  // namespace pagoda

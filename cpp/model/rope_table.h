// The cosines and sines of rotary position embedding for every position a model can reach.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace pagoda {

/// Turns per position of each pair, [rotary_dim / 2], in radians, after scaling.
/// linear: divided by the factor. llama3: low frequencies divided by the factor, high ones kept, those between blended
/// (Llama 3.1's published rule). divisors: each divided by its own.
std::vector<double> rope_frequencies(const RopeConfig& rope);

/// [num_positions, rotary_dim]: rotary_dim/2 cosines, then as many sines. Angles are formed in float, as the references do.
std::vector<float> make_rope_table(const RopeConfig& rope, int64_t num_positions);

}  // namespace pagoda

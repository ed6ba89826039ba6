// The cosines and sines of rotary position embedding for every position a model can reach.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace pagoda {

/// Turns of each pair per position, [rotary_dim / 2], in radians, after scaling, in a context that may grow to `num_positions`.
/// - linear: divided by the factor.
/// - llama3 (Llama 3.1's published rule): low frequencies divided by the factor, high ones kept, those between blended.
/// - yarn (Peng et al. 2023, NTK-by-parts): the same with the blend over pairs instead of wavelengths.
/// - longrope (Ding et al. 2024): divided by the pair's own divisor; the long ones if num_positions exceeds original_context.
///   The choice holds for all positions, because keys made with one set do not meet queries made with the other.
/// - dynamic: as at position num_positions - 1, see make_rope_table.
/// - divisors (GGUF): each divided by its own.
/// Throws InvalidArgument when there is not one divisor for each pair.
std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t num_positions);

/// By what llama3's rule divides the frequency of each pair, [rotary_dim / 2]. In float, as GGUF files keep it, so that both
/// ways to say it give the same table.
std::vector<float> llama3_divisors(const RopeConfig& rope);

/// [num_positions, rotary_dim]: rotary_dim/2 cosines, then as many sines, times attention_factor. Angles are formed in float,
/// as the references do.
///
/// dynamic (NTK-aware, by position): position p turns with the base of a context of p + 1 tokens, theta * (factor * (p + 1) /
/// original_context - (factor - 1))^(d / (d - 2)) from original_context on. That is what transformers computes when it
/// generates token by token, and unlike a base by the length of the prompt it does not depend on how a prompt is cut into
/// chunks.
std::vector<float> make_rope_table(const RopeConfig& rope, int64_t num_positions);

}  // namespace pagoda

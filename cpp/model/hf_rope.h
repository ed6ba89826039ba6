// Reads rotary position embedding from a Hugging Face config.json, in the forms of all its generations.
#pragma once

#include "core/json.h"
#include "model/config.h"

namespace pagoda {

/// The rope of `json`, of heads of config.head_dim and contexts of config.max_context: newer files keep it in `rope_parameters`
/// (rope_theta inside), older ones in `rope_theta`, `rope_scaling` and `partial_rotary_factor`. Throws InvalidArgument naming
/// the key, what it holds and what is allowed.
RopeConfig read_hf_rope(const Json& json, const ModelConfig& config);

/// The same from one object of parameters ("rope_parameters.sliding_attention"), null or absent members falling back to `json`.
RopeConfig read_hf_rope(const Json& json, const Json* parameters, const ModelConfig& config);

}  // namespace pagoda

// Models with two rotations: one for layers with full attention, another one for those with a sliding window. Used by
// model/arch/*.cc after the windows are known.
#pragma once

#include "core/json.h"
#include "model/config.h"

namespace pagoda::arch {

/// Layers with a window rotate as `local` says, the others as config.rope.
void set_local_rope(ModelConfig& config, const RopeConfig& local);

/// Both from config.json: rope_parameters by layer type ("full_attention", "sliding_attention"), or, in files from before
/// transformers 5, rope_theta and rope_scaling for full attention and an unscaled `local_theta` for windows. `theta` and
/// `local_theta` are what the family takes where the file does not say.
void read_hf_layer_ropes(const Json& json, ModelConfig& config, double theta, double local_theta);

}  // namespace pagoda::arch

// Reads a Hugging Face config.json.
#pragma once

#include "core/json.h"
#include "model/config.h"

namespace pagoda {

/// Throws InvalidArgument naming the key for anything missing, unknown or out of range.
ModelConfig read_hf_config(const Json& json);

/// The end-of-sequence ids of a config.json or generation_config.json: an integer, a list, or nothing.
std::vector<int32_t> read_eos_tokens(const Json& json);

/// The activation that `name` (hidden_act) means. Throws InvalidArgument listing those supported.
Activation parse_activation(std::string_view name);

}  // namespace pagoda

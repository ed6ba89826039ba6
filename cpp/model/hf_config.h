// Reads a Hugging Face config.json.
#pragma once

#include "core/json.h"
#include "model/config.h"

namespace pagoda {

/// Throws InvalidArgument naming the key for anything missing, unknown or out of range.
ModelConfig read_hf_config(const Json& json);

/// Adds the end-of-sequence ids of a config.json or generation_config.json (`file`): an integer, a list, or nothing.
/// Throws InvalidArgument for an id outside the vocabulary.
void add_eos_tokens(const Json& json, const char* file, ModelConfig& config);

/// An integer of config.json that the engine keeps in 32 bits. Throws InvalidArgument naming the key for one that does not fit;
/// without a fallback also when it is absent.
int read_int(const Json& json, std::string_view key);
int read_int(const Json& json, std::string_view key, int64_t fallback);

/// The activation that `name` (hidden_act) means. Throws InvalidArgument listing those supported.
Activation parse_activation(std::string_view name);

}  // namespace pagoda

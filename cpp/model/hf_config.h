// Reads a Hugging Face config.json.
#pragma once

#include <initializer_list>
#include <string_view>

#include "core/json.h"
#include "model/config.h"

namespace pagoda {

/// Throws InvalidArgument naming the key for anything missing, unknown or out of range. Code that the checkpoint brings along
/// (auto_map) is never run: the architecture's name alone decides.
ModelConfig read_hf_config(const Json& json);

/// Adds the end-of-sequence ids of a config.json or generation_config.json (`file`): an integer, a list, or nothing.
/// Throws InvalidArgument for an id outside the vocabulary.
void add_eos_tokens(const Json& json, const char* file, ModelConfig& config);

// For model/arch.

/// An integer of config.json that the engine keeps in 32 bits. Throws InvalidArgument naming the key for one that does not fit;
/// without a fallback also when it is absent.
int read_int(const Json& json, std::string_view key);
int read_int(const Json& json, std::string_view key, int64_t fallback);

/// The first of several keys that is there and not null, else the first: families call the same thing by different names.
std::string_view any_key(const Json& json, std::initializer_list<std::string_view> keys);

/// Throws InvalidArgument naming a switch that is there with another value than `supported`, the only one there is code for.
void require_switch(const Json& json, std::string_view key, bool supported);

/// A number, as the engine computes with it.
float read_float(const Json& json, std::string_view key, double fallback);

/// Gives the layers that `layer_types` calls "sliding_attention" the window, the others ("full_attention") none. Returns false
/// if there is no such list. Throws InvalidArgument for a list of another length or an unknown type.
bool read_layer_types(const Json& json, ModelConfig& config, int window);

/// The activation that `name` (hidden_act) means. Throws InvalidArgument listing those supported.
Activation parse_activation(std::string_view name);

}  // namespace pagoda

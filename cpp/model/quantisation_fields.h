// Fields that several quantisation methods have in config.json's quantization_config, and the words their errors begin with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/json.h"

namespace pagoda {

/// Stands in front of every error about the configuration.
inline constexpr const char* kQuantisationField = "config.json: quantization_config: ";

/// `group_size`: columns that share a scale, or -1 for all. Throws InvalidArgument for 0 and below -1.
int64_t read_group_size(const Json& config, int64_t fallback);

/// Two positive integers, such as weight_block_size. Throws InvalidArgument that begins with `field` for anything else, and for
/// null.
std::pair<int64_t, int64_t> read_block(const Json* json, const std::string& field);

/// "groups of 128", "one group per row"
std::string group_text(int64_t group_size);

std::string to_lower(std::string_view text);

}  // namespace pagoda

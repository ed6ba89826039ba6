// The tensor types that GGUF files number. Knowing more of them than the engine computes with gives listings and clear
// refusals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/weight_format.h"

namespace pagoda {

struct GgmlType {
  uint32_t id;
  std::string_view name;
  int64_t block_values;  ///< values in one block
  int64_t block_bytes;
  std::optional<WeightFormat> format;  ///< set for the types that the engine uses
};

/// The type of that number, or null for one that is not known (some numbers were given up, others are to come).
const GgmlType* find_ggml_type(uint32_t id);

/// The type of the format, null for a format that GGUF has not.
const GgmlType* find_ggml_type(WeightFormat format);

/// "F32 F16 ...": the names of the types that have a format, for error texts.
std::string supported_ggml_types();

}  // namespace pagoda

// The architectures that the decoder can run, by the names that checkpoints use. One row each.
#pragma once

#include <string>
#include <string_view>

#include "core/json.h"
#include "model/config.h"

namespace pagoda {

/// A family member. The readers hf_config.cc and gguf_config.cc fill what all families share; the row's functions set the
/// switches.
struct Architecture {
  const char* hf_name;    ///< `architectures[0]` of config.json
  const char* gguf_name;  ///< `general.architecture`, null if GGUF has none
  /// Sets what config.json says in this family's own way. `json` is the whole document.
  void (*adjust_hf)(const Json& json, ModelConfig& config);
  /// Sets the switches that GGUF leaves implicit.
  void (*adjust_gguf)(ModelConfig& config);
};

/// Throws InvalidArgument that names the architecture and lists those supported.
const Architecture& find_hf_architecture(std::string_view name);
const Architecture& find_gguf_architecture(std::string_view name);

}  // namespace pagoda

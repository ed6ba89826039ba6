// The architectures that the decoder can run, by the names that checkpoints use. One row each, defined in model/arch/*.cc and
// listed in registry.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "model/config.h"

namespace pagoda {

class WeightSource;
struct GgufKeys;
struct GgufKeyWriter;

/// A family member. The readers hf_config.cc and gguf_config.cc fill what all families share; the row's functions set the
/// switches.
struct Architecture {
  const char* hf_name;    ///< `architectures[0]` of config.json, null if there is none
  const char* gguf_name;  ///< `general.architecture`, null if GGUF has none
  /// Sets what config.json says in this family's own way. `json` is the object that holds the text model's fields. Null for
  /// nothing.
  void (*adjust_hf)(const Json& json, ModelConfig& config);
  /// Sets what GGUF's metadata says in this family's own way, and what it leaves implicit. Null for nothing.
  void (*adjust_gguf)(const GgufKeys& keys, ModelConfig& config);
  /// The member of config.json that holds the text model's fields, null for the document itself.
  const char* text_key = nullptr;
  /// A JSON object: what transformers assumes for members of config.json that are absent. Null: nothing that matters.
  const char* hf_defaults = nullptr;
  /// Sets layout.names for a family whose Hugging Face checkpoints call tensors differently. Null: they do not.
  void (*choose_names)(const WeightSource& source, ModelConfig& config) = nullptr;
  /// How its GGUF files name and arrange tensors; adjust_gguf may choose others for files that differ.
  TensorLayout gguf_layout{.names = &kGgufNames};
  /// Writes what adjust_gguf reads from metadata. Null: nothing but what all families share.
  void (*write_gguf)(const ModelConfig& config, const GgufKeyWriter& keys) = nullptr;
  /// The gguf_name under which its models are written, for a row without a name of its own. Null: they are not.
  const char* written_as = nullptr;
};

/// Throws InvalidArgument that names the architecture and lists those supported.
const Architecture& find_hf_architecture(std::string_view name);
const Architecture& find_gguf_architecture(std::string_view name);

/// All rows, for listings.
const std::vector<const Architecture*>& architectures();

}  // namespace pagoda

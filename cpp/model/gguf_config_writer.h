// Writes a model's sizes as GGUF metadata, the reverse of gguf_config.h. What a family says in its own way stands beside the
// reader of it, in model/arch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "model/config.h"

namespace pagoda {

struct Architecture;

/// Sets keys under an architecture's name, as GgufKeys reads them.
struct GgufKeyWriter {
  GgufMetadata& metadata;
  std::string prefix;

  std::string full(const char* key) const { return prefix + "." + key; }
  void set_int(const char* key, int64_t value) const;  ///< as u32. Throws InvalidArgument for a value that does not fit
  void set_float(const char* key, double value) const { metadata.set(full(key), static_cast<float>(value)); }
  void set_bool(const char* key, bool value) const { metadata.set(full(key), value); }
  void set_string(const char* key, const std::string& value) const { metadata.set(full(key), value); }
};

/// Writes everything that `architecture`'s files say of a model but its tokenizer: general.architecture, its own keys, and
/// the ids of the end-of-sequence tokens that `metadata` does not name yet. Throws InvalidArgument for more of these than GGUF
/// has keys for.
void write_gguf_config(const ModelConfig& config, const Architecture& architecture, GgufMetadata& metadata);

/// Divisors of the rotary pairs that GGUF keeps as a tensor: its name and values.
struct RopeTensor {
  std::string name;
  std::vector<float> values;
};
std::vector<RopeTensor> rope_tensors(const RopeConfig& rope);

}  // namespace pagoda

// Reads the model's sizes from a GGUF file's metadata.
#pragma once

#include <string>
#include <string_view>

#include "io/gguf.h"
#include "model/config.h"

namespace pagoda {

/// Values of expert_gating_func: softmax over all experts, or over the chosen. 0: the file does not say.
constexpr int64_t kGateSoftmax = 1, kGateSoftmaxChosen = 3;

/// A file's metadata under its architecture's name: key "block_count" of a llama is "llama.block_count". Getters throw
/// InvalidArgument naming the full key; without a fallback also when it is absent.
struct GgufKeys {
  const GgufFile& file;
  std::string prefix;

  std::string full(const char* key) const { return prefix + "." + key; }
  bool has_tensor(std::string_view name) const { return file.find_bytes(name).has_value(); }
  bool has(const char* key) const { return file.find_value(full(key)) != nullptr; }
  int64_t get_int(const char* key) const { return file.get_int(full(key)); }
  int64_t get_int(const char* key, int64_t fallback) const { return file.get_int(full(key), fallback); }
  /// A value that the engine keeps in 32 bits.
  int get_small(const char* key) const { return fitting(key, get_int(key)); }
  int get_small(const char* key, int64_t fallback) const { return fitting(key, get_int(key, fallback)); }
  double get_double(const char* key, double fallback) const { return file.get_double(full(key), fallback); }
  float get_float(const char* key, double fallback) const { return static_cast<float>(get_double(key, fallback)); }
  bool get_bool(const char* key, bool fallback) const { return file.get_bool(full(key), fallback); }
  std::string_view get_string(const char* key, std::string_view fallback) const { return file.get_string(full(key), fallback); }

 private:
  int fitting(const char* key, int64_t value) const;
};

/// Throws InvalidArgument naming the key for anything missing, unknown or out of range.
ModelConfig read_gguf_config(const GgufFile& file);

}  // namespace pagoda

// GGUF metadata to ModelConfig. Keys begin with the architecture's name: `llama.block_count`.
#include "model/gguf_config.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "io/dequantise.h"
#include "model/registry.h"

namespace pagoda {
namespace {

/// The file's metadata under one architecture's prefix.
struct Keys {
  const GgufFile& file;
  std::string prefix;

  std::string full(const char* key) const { return prefix + "." + key; }
  int64_t get_int(const char* key) const { return file.get_int(full(key)); }
  int64_t get_int(const char* key, int64_t fallback) const { return file.get_int(full(key), fallback); }
  double get_double(const char* key, double fallback) const { return file.get_double(full(key), fallback); }
  std::string_view get_string(const char* key, std::string_view fallback) const { return file.get_string(full(key), fallback); }
};

void read_rope(const Keys& keys, RopeConfig& rope, int head_dim) {
  rope.theta = keys.get_double("rope.freq_base", 10000);
  rope.rotary_dim = static_cast<int>(keys.get_int("rope.dimension_count", head_dim));
  const std::string_view type = keys.get_string("rope.scaling.type", "none");
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
    rope.factor = keys.get_double("rope.scaling.factor", 1);
  } else {
    require(type == "none", keys.full("rope.scaling.type"), " '", type, "' is not supported; supported are none, linear");
  }
  if (const StoredTensor* freqs = keys.file.find("rope_freqs.weight")) {
    require(freqs->shape.size() == 1 && freqs->format == WeightFormat::f32, "rope_freqs.weight must be one row of f32");
    rope.divisors.resize(static_cast<size_t>(freqs->shape[0]));
    std::memcpy(rope.divisors.data(), freqs->data, freqs->bytes);
  }
}

std::vector<int32_t> read_end_tokens(const GgufFile& file) {
  std::vector<int32_t> tokens;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const auto token = static_cast<int32_t>(file.get_int(key, -1));
    if (token >= 0 && std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
  }
  return tokens;
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = file.get_string("general.architecture");
  const Architecture& architecture = find_gguf_architecture(config.architecture);
  const Keys keys{file, config.architecture};
  const StoredTensor* embedding = file.find("token_embd.weight");
  require(embedding && embedding->shape.size() == 2, file.describe(), ": token_embd.weight must be a matrix");
  config.vocab_size = embedding->shape[0];
  config.hidden_size = keys.get_int("embedding_length");
  config.intermediate_size = keys.get_int("feed_forward_length");
  config.num_layers = static_cast<int>(keys.get_int("block_count"));
  config.num_heads = static_cast<int>(keys.get_int("attention.head_count"));
  config.kv_heads = static_cast<int>(keys.get_int("attention.head_count_kv", config.num_heads));
  require(config.num_heads >= 1 && config.num_layers >= 1 && config.num_layers <= 4096, file.describe(),
          ": attention.head_count must be >= 1 and block_count in [1, 4096], got ", config.num_heads, " and ", config.num_layers);
  config.head_dim = static_cast<int>(keys.get_int("attention.key_length", config.hidden_size / config.num_heads));
  require(keys.get_int("attention.value_length", config.head_dim) == config.head_dim, file.describe(),
          ": attention.value_length differs from the key length ", config.head_dim, ", which is not supported");
  config.max_context = keys.get_int("context_length");
  config.norm_eps = static_cast<float>(keys.get_double("attention.layer_norm_rms_epsilon", 1e-6));
  config.tied_embeddings = !file.find("output.weight");
  config.windows.assign(static_cast<size_t>(config.num_layers), static_cast<int>(keys.get_int("attention.sliding_window", 0)));
  config.eos_tokens = read_end_tokens(file);
  read_rope(keys, config.rope, config.head_dim);
  architecture.adjust_gguf(config);
  config.validate();
  return config;
}

}  // namespace pagoda

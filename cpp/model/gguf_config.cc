// GGUF metadata to ModelConfig. Keys begin with the architecture's name: `llama.block_count`.
#include "model/gguf_config.h"

#include <cstring>
#include <utility>

#include "core/check.h"
#include "io/dequantise.h"
#include "model/registry.h"

namespace pagoda {
namespace {

constexpr int64_t kNoToken = 0xffffffff;  // -1 in GGUF's unsigned 32 bits

/// The file's metadata under one architecture's prefix.
struct Keys {
  const GgufFile& file;
  std::string prefix;

  std::string full(const char* key) const { return prefix + "." + key; }
  int64_t get_int(const char* key) const { return file.get_int(full(key)); }
  int64_t get_int(const char* key, int64_t fallback) const { return file.get_int(full(key), fallback); }
  /// A value that the engine keeps in 32 bits.
  int get_small(const char* key) const { return fitting(key, get_int(key)); }
  int get_small(const char* key, int64_t fallback) const { return fitting(key, get_int(key, fallback)); }
  double get_double(const char* key, double fallback) const { return file.get_double(full(key), fallback); }
  std::string_view get_string(const char* key, std::string_view fallback) const { return file.get_string(full(key), fallback); }

  int fitting(const char* key, int64_t value) const {
    require(std::in_range<int>(value), file.describe(), ": ", full(key), " must fit in 32 bits, got ", value);
    return static_cast<int>(value);
  }
};

void read_rope(const Keys& keys, RopeConfig& rope, int head_dim) {
  rope.theta = keys.get_double("rope.freq_base", 10000);
  rope.rotary_dim = keys.get_small("rope.dimension_count", head_dim);
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

/// -1 stands for none, as some converters write it.
void add_end_tokens(const GgufFile& file, ModelConfig& config) {
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const int64_t token = file.get_int(key, -1);
    if (token != -1 && token != kNoToken) config.add_eos_token(key, token);
  }
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
  config.num_layers = keys.get_small("block_count");
  config.num_heads = keys.get_small("attention.head_count");
  config.kv_heads = keys.get_small("attention.head_count_kv", config.num_heads);
  require(config.num_heads >= 1 && config.num_layers >= 1 && config.num_layers <= 4096, file.describe(),
          ": attention.head_count must be >= 1 and block_count in [1, 4096], got ", config.num_heads, " and ",
          config.num_layers);
  config.head_dim = keys.get_small("attention.key_length", config.hidden_size / config.num_heads);
  require(keys.get_int("attention.value_length", config.head_dim) == config.head_dim, file.describe(),
          ": attention.value_length differs from the key length ", config.head_dim, ", which is not supported");
  config.max_context = keys.get_int("context_length");
  config.norm_eps = static_cast<float>(keys.get_double("attention.layer_norm_rms_epsilon", 1e-6));
  config.tied_embeddings = !file.find("output.weight");
  config.windows.assign(static_cast<size_t>(config.num_layers), keys.get_small("attention.sliding_window", 0));
  add_end_tokens(file, config);
  read_rope(keys, config.rope, config.head_dim);
  architecture.adjust_gguf(config);
  config.validate();
  return config;
}

}  // namespace pagoda

// GGUF metadata to ModelConfig: what all families share here, the rest in model/arch.
#include "model/gguf_config.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "model/registry.h"

namespace pagoda {
namespace {

constexpr int64_t kNoToken = 0xffffffff;  // -1 in GGUF's unsigned 32 bits

/// A tensor of divisors, one for each pair; empty when there is none of that name.
std::vector<float> read_divisors(const GgufFile& file, const char* name) {
  const StoredTensor* stored = file.find(name);
  if (!stored) return {};
  require(stored->shape.size() == 1 && stored->format == WeightFormat::f32, file.describe(), ": ", name,
          " must be one row of f32");
  std::vector<float> divisors(static_cast<size_t>(stored->shape[0]));
  std::memcpy(divisors.data(), stored->data, stored->bytes);
  return divisors;
}

/// What llama.cpp multiplies cosines and sines with: yarn's magnitude times the file's own factor.
double yarn_magnitude(double factor) { return factor <= 1 ? 1.0 : 1.0 + 0.1 * std::log(factor); }

void read_scaling(const GgufKeys& keys, const ModelConfig& config, RopeConfig& rope) {
  const double factor = keys.get_double("rope.scaling.factor", keys.get_double("rope.scale_linear", 0));
  const std::string_view type = keys.get_string("rope.scaling.type", factor != 0 ? "linear" : "none");
  rope.factor = factor != 0 ? factor : 1;
  rope.original_context = keys.get_double("rope.scaling.original_context_length", static_cast<double>(config.max_context));
  const double own_factor = keys.get_double("rope.scaling.attn_factor", 1);
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::yarn;
    rope.attention_factor = own_factor * keys.get_double("rope.scaling.yarn_attn_factor", yarn_magnitude(rope.factor));
    rope.beta_fast = keys.get_double("rope.scaling.yarn_beta_fast", rope.beta_fast);
    rope.beta_slow = keys.get_double("rope.scaling.yarn_beta_slow", rope.beta_slow);
    require(rope.original_context > 0 && rope.beta_fast > rope.beta_slow && rope.beta_slow > 0, keys.file.describe(),
            ": yarn needs an original_context_length > 0 and yarn_beta_fast > yarn_beta_slow > 0, got ", rope.original_context,
            ", ", rope.beta_fast, ", ", rope.beta_slow);
  } else {
    require(type == "none" || type == "longrope", keys.full("rope.scaling.type"), " '", type,
            "' is not supported; supported are none, linear, yarn, longrope");
  }
  rope.divisors = read_divisors(keys.file, "rope_freqs.weight");
  rope.long_divisors = read_divisors(keys.file, "rope_factors_long.weight");
  rope.short_divisors = read_divisors(keys.file, "rope_factors_short.weight");
  if (rope.long_divisors.empty() && rope.short_divisors.empty()) return;
  rope.scaling = RopeScaling::longrope;
  rope.attention_factor = own_factor;
}

RopeConfig read_rope(const GgufKeys& keys, const ModelConfig& config) {
  RopeConfig rope;
  rope.theta = keys.get_double("rope.freq_base", 10000);
  rope.rotary_dim = keys.get_small("rope.dimension_count", config.head_dim);
  read_scaling(keys, config, rope);
  return rope;
}

/// -1 stands for none, as some converters write it.
void add_end_tokens(const GgufFile& file, ModelConfig& config) {
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const int64_t token = file.get_int(key, -1);
    if (token != -1 && token != kNoToken) config.add_eos_token(key, token);
  }
}

void read_experts(const GgufKeys& keys, ModelConfig& config) {
  config.moe.num_experts = keys.get_small("expert_count", 0);
  if (config.moe.num_experts == 0) return;
  config.moe.route.top_k = keys.get_small("expert_used_count");
  const int64_t gating = keys.get_int("expert_gating_func", kGateSoftmax);
  require(gating == 0 || gating == kGateSoftmax || gating == kGateSoftmaxChosen, keys.file.describe(), ": ",
          keys.full("expert_gating_func"), " ", gating, " is not supported; supported are ", kGateSoftmax,
          " (softmax over all experts) and ", kGateSoftmaxChosen, " (over the chosen)");
  config.moe.route.softmax_first = gating != kGateSoftmaxChosen;
  config.moe.intermediate_size = keys.get_int("expert_feed_forward_length", keys.get_int("feed_forward_length", 0));
  config.moe.route.scale = keys.get_float("expert_weights_scale", 1);
  config.sparse_layers.assign(static_cast<size_t>(config.num_layers), true);
}

float read_norm_eps(const GgufKeys& keys) {
  const char* rms = "attention.layer_norm_rms_epsilon";
  const char* layer = "attention.layer_norm_epsilon";
  require(keys.has(rms) || keys.has(layer), keys.file.describe(), ": ", keys.full(rms), " or ", keys.full(layer),
          " is missing");
  return keys.get_float(keys.has(rms) ? rms : layer, 0);
}

void read_sizes(const GgufKeys& keys, ModelConfig& config) {
  const StoredTensor* embedding = keys.file.find("token_embd.weight");
  require(embedding && embedding->shape.size() == 2, keys.file.describe(), ": token_embd.weight must be a matrix");
  config.vocab_size = embedding->shape[0];
  config.hidden_size = keys.get_int("embedding_length");
  config.num_layers = keys.get_small("block_count");
  config.num_heads = keys.get_small("attention.head_count");
  config.kv_heads = keys.get_small("attention.head_count_kv", config.num_heads);
  require(config.num_heads >= 1 && config.num_layers >= 1 && config.num_layers <= 4096, keys.file.describe(),
          ": attention.head_count must be >= 1 and block_count in [1, 4096], got ", config.num_heads, " and ",
          config.num_layers);
  config.head_dim = keys.get_small("attention.key_length", config.hidden_size / config.num_heads);
  require(keys.get_int("attention.value_length", config.head_dim) == config.head_dim, keys.file.describe(),
          ": attention.value_length differs from the key length ", config.head_dim, ", which is not supported");
  config.max_context = keys.get_int("context_length");
}

}  // namespace

int GgufKeys::fitting(const char* key, int64_t value) const {
  require(std::in_range<int>(value), file.describe(), ": ", full(key), " must fit in 32 bits, got ", value);
  return static_cast<int>(value);
}

namespace {

ModelConfig read_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = file.get_string("general.architecture");
  const Architecture& architecture = find_gguf_architecture(config.architecture);
  const GgufKeys keys{file, config.architecture};
  require(keys.get_bool("attention.causal", true), file.describe(), ": ", keys.full("attention.causal"),
          " = false is not supported");
  config.layout = architecture.gguf_layout;
  read_sizes(keys, config);
  read_experts(keys, config);
  config.intermediate_size = config.moe.num_experts ? keys.get_int("feed_forward_length", config.moe.intermediate_size)
                                                    : keys.get_int("feed_forward_length");
  config.norm_eps = read_norm_eps(keys);
  config.tied_embeddings = !file.find("output.weight");
  config.windows.assign(static_cast<size_t>(config.num_layers), keys.get_small("attention.sliding_window", 0));
  add_end_tokens(file, config);
  config.rope = read_rope(keys, config);
  if (architecture.adjust_gguf) architecture.adjust_gguf(keys, config);
  config.validate();
  return config;
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  try {
    return read_config(file);
  } catch (const InvalidArgument& error) {
    const std::string_view message = error.what();
    if (message.starts_with(file.describe())) throw;
    throw InvalidArgument(str(file.describe(), ": ", message));
  }
}

}  // namespace pagoda

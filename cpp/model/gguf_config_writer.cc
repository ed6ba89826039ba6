// ModelConfig to GGUF metadata: what all families share here, the rest in model/arch. gguf_export.cc reads it back to see that
// nothing was lost.
#include "model/gguf_config_writer.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "model/gguf_config.h"
#include "model/registry.h"
#include "model/rope_table.h"

namespace pagoda {
namespace {

constexpr const char* kEndKeys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                    "tokenizer.ggml.eom_token_id"};

void write_sizes(const ModelConfig& config, const GgufKeyWriter& keys) {
  keys.set_int("vocab_size", config.vocab_size);
  keys.set_int("context_length", config.max_context);
  keys.set_int("embedding_length", config.hidden_size);
  keys.set_int("block_count", config.num_layers);
  keys.set_int("feed_forward_length", config.intermediate_size);
  keys.set_int("attention.head_count", config.num_heads);
  keys.set_int("attention.head_count_kv", config.kv_heads);
  keys.set_int("attention.key_length", config.head_dim);
  keys.set_int("attention.value_length", config.head_dim);
  const bool rms = config.norm == NormKind::rms;
  keys.set_float(rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
                 static_cast<double>(config.norm_eps));
  const int window = config.windows.empty() ? 0 : *std::max_element(config.windows.begin(), config.windows.end());
  if (window > 0) keys.set_int("attention.sliding_window", window);
}

void write_experts(const ModelConfig& config, const GgufKeyWriter& keys) {
  const MoeConfig& moe = config.moe;
  if (moe.num_experts == 0) return;
  keys.set_int("expert_count", moe.num_experts);
  keys.set_int("expert_used_count", moe.route.top_k);
  keys.set_int("expert_feed_forward_length", moe.intermediate_size);
  keys.set_bool("expert_weights_norm", moe.route.normalise);
  if (!moe.route.softmax_first) keys.set_int("expert_gating_func", kGateSoftmaxChosen);
  if (moe.shared_intermediate_size > 0) keys.set_int("expert_shared_feed_forward_length", moe.shared_intermediate_size);
  if (moe.route.scale != 1) keys.set_float("expert_weights_scale", static_cast<double>(moe.route.scale));
}

void write_rope(const ModelConfig& config, const GgufKeyWriter& keys) {
  if (config.learned_positions) return;
  const RopeConfig& rope = config.rope;
  keys.set_float("rope.freq_base", rope.theta);
  keys.set_int("rope.dimension_count", rope.rotary_dim);
  switch (rope.scaling) {
    case RopeScaling::linear:
      keys.set_string("rope.scaling.type", "linear");
      keys.set_float("rope.scaling.factor", rope.factor);
      break;
    case RopeScaling::yarn:
      keys.set_string("rope.scaling.type", "yarn");
      keys.set_float("rope.scaling.factor", rope.factor);
      keys.set_int("rope.scaling.original_context_length", static_cast<int64_t>(rope.original_context));
      keys.set_float("rope.scaling.yarn_attn_factor", rope.attention_factor);
      keys.set_float("rope.scaling.yarn_beta_fast", rope.beta_fast);
      keys.set_float("rope.scaling.yarn_beta_slow", rope.beta_slow);
      break;
    case RopeScaling::longrope:
      keys.set_string("rope.scaling.type", "longrope");
      keys.set_int("rope.scaling.original_context_length", static_cast<int64_t>(rope.original_context));
      keys.set_float("rope.scaling.attn_factor", rope.attention_factor);
      break;
    case RopeScaling::llama3:  // its divisors are a tensor
    case RopeScaling::dynamic:
    case RopeScaling::none:
      break;
  }
}

void write_end_tokens(const ModelConfig& config, GgufMetadata& metadata) {
  std::vector<uint32_t> missing;
  for (const int32_t token : config.eos_tokens) {
    const auto id = static_cast<uint32_t>(token);
    const auto names_it = [&](const char* key) { return metadata.find_u32(key) == id; };
    if (std::none_of(std::begin(kEndKeys), std::end(kEndKeys), names_it)) missing.push_back(id);
  }
  size_t placed = 0;
  for (const char* key : kEndKeys) {
    if (placed < missing.size() && !metadata.has(key)) metadata.set(key, missing[placed++]);
  }
  require(placed == missing.size(), "the model has ", config.eos_tokens.size(),
          " end-of-sequence tokens (eos_token_id in config.json and generation_config.json); a GGUF file can name ",
          std::size(kEndKeys));
}

}  // namespace

void GgufKeyWriter::set_int(const char* key, int64_t value) const {
  require(std::in_range<uint32_t>(value), full(key), " must be in [0, 2^32), got ", value);
  metadata.set(full(key), static_cast<uint32_t>(value));
}

void write_gguf_config(const ModelConfig& config, const Architecture& architecture, GgufMetadata& metadata) {
  metadata.set("general.architecture", std::string(architecture.gguf_name));
  const GgufKeyWriter keys{metadata, architecture.gguf_name};
  write_sizes(config, keys);
  write_experts(config, keys);
  write_rope(config, keys);
  if (architecture.write_gguf) architecture.write_gguf(config, keys);
  write_end_tokens(config, metadata);
}

std::vector<RopeTensor> rope_tensors(const RopeConfig& rope) {
  std::vector<RopeTensor> tensors;
  const auto add = [&](const char* name, const std::vector<float>& values) {
    if (!values.empty()) tensors.push_back({name, values});
  };
  add("rope_freqs.weight", rope.scaling == RopeScaling::llama3 ? llama3_divisors(rope) : rope.divisors);
  add("rope_factors_long.weight", rope.long_divisors);
  add("rope_factors_short.weight", rope.short_divisors);
  return tensors;
}

}  // namespace pagoda

// Qwen2-MoE (Qwen1.5-MoE, Qwen2-57B-A14B: an expert that every token passes, behind a gate of its own) and Qwen3-MoE.
#include <algorithm>

#include "core/check.h"
#include "model/arch/experts.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

/// Every decoder_sparse_step-th layer has experts, but those that mlp_only_layers lists.
void read_sparse_layers(const Json& json, ModelConfig& config) {
  const int64_t step = json.get_int("decoder_sparse_step", 1);
  require(step >= 1, "config.json: decoder_sparse_step must be >= 1, got ", step);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    config.sparse_layers[static_cast<size_t>(layer)] = (layer + 1) % step == 0;
  }
  const Json* dense = json.find("mlp_only_layers");
  if (!dense || dense->is_null()) return;
  require(dense->is_array(), "config.json: mlp_only_layers must be an array, found ", dense->describe());
  for (const Json& entry : dense->items()) {
    const int64_t layer = entry.as_int();
    if (layer >= 0 && layer < config.num_layers) config.sparse_layers[static_cast<size_t>(layer)] = false;
  }
}

void read_qwen_experts(const Json& json, ModelConfig& config) {
  read_hf_experts(json, json.get_int("moe_intermediate_size"), config);
  read_sparse_layers(json, config);
  config.moe.route.normalise = json.get_bool("norm_topk_prob", false);
}

/// Windows apply to layers that `layer_types` calls sliding, or, without it, to every other one below max_window_layers.
void read_qwen2_windows(const Json& json, ModelConfig& config) {
  if (!json.get_bool("use_sliding_window", false)) return;
  const int window = read_int(json, "sliding_window", 0);
  if (read_layer_types(json, config, window)) return;
  const int64_t end = std::min(json.get_int("max_window_layers"), int64_t{config.num_layers});
  for (int64_t layer = 0; layer < end; layer += 2) config.windows[static_cast<size_t>(layer)] = window;
}

void qwen2_moe_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = json.get_bool("qkv_bias", true);
  read_qwen2_windows(json, config);
  read_qwen_experts(json, config);
  config.moe.shared_intermediate_size = json.get_int("shared_expert_intermediate_size");
  require(config.moe.shared_intermediate_size >= 1, "config.json: shared_expert_intermediate_size must be >= 1, got ",
          config.moe.shared_intermediate_size);
  config.moe.shared_gate = true;
}

void qwen2_moe_gguf(const GgufKeys& keys, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  moe.route.normalise = keys.get_bool("expert_weights_norm", false);
  if (!keys.has("expert_feed_forward_length") && moe.route.top_k > 0) {  // early files
    moe.intermediate_size = config.intermediate_size / moe.route.top_k;
  }
  moe.shared_intermediate_size = keys.get_int("expert_shared_feed_forward_length", config.intermediate_size);
  moe.shared_gate = true;
}

void qwen3_moe_hf(const Json& json, ModelConfig& config) {
  config.qk_norm = QkNorm::head;
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  if (json.get_bool("use_sliding_window", false)) {
    config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
  }
  read_qwen_experts(json, config);
}

void qwen3_moe_gguf(const GgufKeys& keys, ModelConfig& config) {
  config.qk_norm = QkNorm::head;
  config.moe.route.normalise = keys.get_bool("expert_weights_norm", true);
}

constexpr const char* kQwen2Defaults = R"({"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632, "sliding_window": 4096, "max_window_layers": 28})";
constexpr const char* kQwen3Defaults = R"({"num_experts_per_tok": 8, "moe_intermediate_size": 768, "sliding_window": 4096})";

}  // namespace

extern const Architecture qwen2_moe, qwen3_moe;
const Architecture qwen2_moe{.hf_name = "Qwen2MoeForCausalLM",
                             .gguf_name = "qwen2moe",
                             .adjust_hf = qwen2_moe_hf,
                             .adjust_gguf = qwen2_moe_gguf,
                             .hf_defaults = kQwen2Defaults,
                             .choose_names = choose_stacked_experts};
const Architecture qwen3_moe{.hf_name = "Qwen3MoeForCausalLM",
                             .gguf_name = "qwen3moe",
                             .adjust_hf = qwen3_moe_hf,
                             .adjust_gguf = qwen3_moe_gguf,
                             .hf_defaults = kQwen3Defaults,
                             .choose_names = choose_stacked_experts};

}  // namespace pagoda::arch

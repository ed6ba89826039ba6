// Granite 3: a Llama with factors on embeddings, q·k, what a block adds, and logits; the same with a mixture of experts in
// every layer, with or without an expert that every token passes; and those Granite 4 that are no hybrids.
#include <cmath>

#include "core/check.h"
#include "model/arch/experts.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kMoeNames = [] {
  TensorNames names = kHfNames;
  names.router = "block_sparse_moe.router.layer";
  names.expert_gate_up = "block_sparse_moe.input_linear";
  names.expert_down = "block_sparse_moe.output_linear";
  names.shared_gate_up = names.gate_up = "shared_mlp.input_linear";
  names.shared_down = names.down = "shared_mlp.output_linear";
  return names;
}();

/// As transformers has the experts in memory, and saves them when told not to go back to the released form.
constexpr TensorNames kUnconvertedNames = [] {
  TensorNames names = kMoeNames;
  names.router = "block_sparse_moe.router";
  names.expert_gate_up = "block_sparse_moe.experts.gate_up_proj";
  names.expert_down = "block_sparse_moe.experts.down_proj";
  return names;
}();

float inverse(std::string_view key, float divisor) {
  require(divisor != 0, key, " must not be 0");
  return 1 / divisor;
}

void granite_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  config.mlp_bias = json.get_bool("mlp_bias", false);
  config.embedding_scale = read_float(json, "embedding_multiplier", 1);
  config.attention_scale = read_float(json, "attention_multiplier", 1);
  config.residual_scale = read_float(json, "residual_multiplier", 1);
  config.logit_scale = inverse("config.json: logits_scaling", read_float(json, "logits_scaling", 1));
}

void granite_gguf(const GgufKeys& keys, ModelConfig& config) {
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = keys.has_tensor("blk.0.ffn_up.bias");
  config.embedding_scale = keys.get_float("embedding_scale", 1);
  config.attention_scale = keys.get_float("attention.scale", 0);
  config.residual_scale = keys.get_float("residual_scale", 1);
  config.logit_scale = inverse(keys.full("logit_scale"), keys.get_float("logit_scale", 1));
  if (!keys.get_bool("rope.scaling.finetuned", true)) config.layer_ropes.assign(config.windows.size(), ModelConfig::kNoRope);
}

/// The number whose inverse is `value` to the bit.
float divisor_of(float value) {
  const float near = 1 / value;
  for (const float divisor : {near, std::nextafter(near, 0.0f), std::nextafter(near, 2 * near)}) {
    if (1 / divisor == value) return divisor;
  }
  return near;
}

void write_granite(const ModelConfig& config, const GgufKeyWriter& keys) {
  keys.set_float("embedding_scale", static_cast<double>(config.embedding_scale));
  keys.set_float("attention.scale", static_cast<double>(config.attention_scale));
  keys.set_float("residual_scale", static_cast<double>(config.residual_scale));
  keys.set_float("logit_scale", static_cast<double>(divisor_of(config.logit_scale)));
}

void granite_moe_hf(const Json& json, ModelConfig& config) {
  granite_hf(json, config);
  config.layout.names = &kMoeNames;
  read_hf_experts(json, config.intermediate_size, config);
  config.moe.route.softmax_first = false;
}

void granite_moe_shared_hf(const Json& json, ModelConfig& config) {
  granite_moe_hf(json, config);
  config.moe.shared_intermediate_size = json.get_int("shared_intermediate_size", 0);
}

/// Of layers without attention (Mamba) there is none. A model without experts has the shared one alone: an ordinary MLP.
void granite_hybrid_hf(const Json& json, ModelConfig& config) {
  const Json& types = json.at(any_key(json, {"layer_types", "layers_block_type"}));
  require(types.is_array(), "config.json: layer_types must be an array, found ", types.describe());
  for (const Json& type : types.items()) {
    require(type.as_string() == "attention" || type.as_string() == "full_attention",
            "config.json: layer_types: layers of type '", type.as_string(), "' are not supported, only 'attention' is");
  }
  if (json.get_int("num_local_experts") > 0) {
    granite_moe_shared_hf(json, config);
  } else {
    granite_hf(json, config);
    config.layout.names = &kMoeNames;
    config.intermediate_size = json.get_int("shared_intermediate_size");
  }
  const std::string positions = json.get_string("position_embedding_type", "nope");
  if (positions != "rope") config.layer_ropes.assign(config.windows.size(), ModelConfig::kNoRope);
}

void granite_moe_gguf(const GgufKeys& keys, ModelConfig& config) {
  granite_gguf(keys, config);
  config.moe.route.softmax_first = false;
  config.moe.shared_intermediate_size = keys.get_int("expert_shared_feed_forward_length", 0);
}

void granite_moe_names(const WeightSource& source, ModelConfig& config) {
  if (has_layer_tensor(source, config, kUnconvertedNames.expert_gate_up)) config.layout.names = &kUnconvertedNames;
}

constexpr TensorLayout kGgufLayout{.names = &kGgufNames, .rope_rows_interleaved = true};

constexpr const char* kMoeDefaults = R"({"num_local_experts": 8, "num_experts_per_tok": 2})";
constexpr const char* kHybridDefaults =
    R"({"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024})";

}  // namespace

extern const Architecture granite, granite_moe, granite_moe_shared, granite_hybrid;
const Architecture granite{.hf_name = "GraniteForCausalLM",
                           .gguf_name = "granite",
                           .adjust_hf = granite_hf,
                           .adjust_gguf = granite_gguf,
                           .gguf_layout = kGgufLayout,
                           .write_gguf = write_granite};
const Architecture granite_moe{.hf_name = "GraniteMoeForCausalLM",
                               .gguf_name = "granitemoe",
                               .adjust_hf = granite_moe_hf,
                               .adjust_gguf = granite_moe_gguf,
                               .hf_defaults = kMoeDefaults,
                               .choose_names = granite_moe_names,
                               .gguf_layout = kGgufLayout,
                               .write_gguf = write_granite};
const Architecture granite_moe_shared{.hf_name = "GraniteMoeSharedForCausalLM",
                                      .gguf_name = nullptr,
                                      .adjust_hf = granite_moe_shared_hf,
                                      .adjust_gguf = nullptr,
                                      .hf_defaults = kMoeDefaults,
                                      .choose_names = granite_moe_names,
                                      .written_as = "granitemoe"};
const Architecture granite_hybrid{.hf_name = "GraniteMoeHybridForCausalLM",
                                  .gguf_name = nullptr,
                                  .adjust_hf = granite_hybrid_hf,
                                  .adjust_gguf = nullptr,
                                  .hf_defaults = kHybridDefaults,
                                  .choose_names = granite_moe_names};

}  // namespace pagoda::arch

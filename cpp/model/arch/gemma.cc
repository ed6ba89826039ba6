// Gemma 1, 2 and 3 (text): scaled embeddings and norms stored as their weight minus one. Gemma 2 adds norms behind attention
// and MLP, soft caps and windows in every other layer; Gemma 3 has normed q and k heads instead of caps, windows in five of six
// layers, and a rotation of its own for those. Of Gemma 3's image models only the text part is read.
#include <cmath>

#include "core/check.h"
#include "model/arch/layer_patterns.h"
#include "model/arch/layer_ropes.h"
#include "model/arch/text_part.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr double kGlobalTheta = 1e6, kLocalTheta = 1e4;  // Gemma 3
constexpr int64_t kGemma2Period = 2, kGemma3Period = 6;
constexpr int kGemma2Layers27b = 46, kGemma3Layers27b = 62;

constexpr TensorNames four_norms() {
  TensorNames names = kHfNames;
  names.post_attn_norm = "post_attention_layernorm";
  names.mlp_norm = "pre_feedforward_layernorm";
  names.post_mlp_norm = "post_feedforward_layernorm";
  return names;
}

constexpr TensorNames kTextNames = four_norms();
constexpr TensorNames kPublishedNames = published_text_part(kTextNames), kNestedNames = nested_text_part(kTextNames);

void set_block(ModelConfig& config) { config.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size)); }

void set_hf_block(const Json& json, ModelConfig& config) {
  set_block(config);
  require_switch(json, "use_bidirectional_attention", false);
  config.layout.norm_offset = 1;
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
}

void set_query_scale(const Json& json, ModelConfig& config) {
  const double scalar = json.get_double("query_pre_attn_scalar");
  require(scalar > 0, "config.json: query_pre_attn_scalar must be > 0, got ", scalar);
  config.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
}

void gemma_hf(const Json& json, ModelConfig& config) {
  set_hf_block(json, config);
  // The published files say hidden_act "gelu" and mean its approximation; hidden_activation means what it says.
  const Json* stated = json.find("hidden_activation");
  const bool literal = stated && !stated->is_null();
  if (!literal && config.activation == Activation::gelu) config.activation = Activation::gelu_tanh;
}

void gemma_gguf(const GgufKeys&, ModelConfig& config) {
  set_block(config);
  config.activation = Activation::gelu_tanh;
}

void set_hf_sandwich(const Json& json, ModelConfig& config, int64_t period) {
  set_hf_block(json, config);
  config.layout.names = &kTextNames;
  config.post_attn_norm = config.post_mlp_norm = true;
  set_query_scale(json, config);
  config.logit_soft_cap = read_float(json, "final_logit_softcapping", 0);
  const int window = read_int(json, "sliding_window", 0);
  if (!read_layer_types(json, config, window)) set_periodic_windows(config, window, period);
}

void gemma2_hf(const Json& json, ModelConfig& config) {
  set_hf_sandwich(json, config, kGemma2Period);
  config.attention_soft_cap = read_float(json, "attn_logit_softcapping", 0);
}

void gemma3_hf(const Json& json, ModelConfig& config) {
  set_hf_sandwich(json, config, json.get_int("sliding_window_pattern", kGemma3Period));
  const Json* cap = json.find("attn_logit_softcapping");
  require(!cap || cap->is_null(), "config.json: attn_logit_softcapping ", cap ? cap->describe() : "", " is not supported");
  config.qk_norm = QkNorm::head;
  read_hf_layer_ropes(json, config, kGlobalTheta, json.get_double("rope_local_base_freq", kLocalTheta));
}

void gemma3_names(const WeightSource& source, ModelConfig& config) {
  choose_text_part(source, kPublishedNames, kNestedNames, config);
}

/// The files do not say how q is scaled: by the head's size, but of the largest model by the hidden size of a head.
void set_gguf_sandwich(ModelConfig& config, int layers_27b) {
  set_block(config);
  config.activation = Activation::gelu_tanh;
  config.post_attn_norm = config.post_mlp_norm = true;
  const int64_t width = config.num_layers == layers_27b ? config.hidden_size / config.num_heads : config.head_dim;
  config.attention_scale = 1 / std::sqrt(static_cast<float>(width));
}

void gemma2_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_gguf_sandwich(config, kGemma2Layers27b);
  config.attention_soft_cap = keys.get_float("attn_logit_softcapping", 50);
  config.logit_soft_cap = keys.get_float("final_logit_softcapping", 30);
  read_gguf_windows(keys, config, kGemma2Period);
}

void gemma3_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_gguf_sandwich(config, kGemma3Layers27b);
  config.qk_norm = QkNorm::head;
  config.logit_soft_cap = keys.get_float("final_logit_softcapping", 0);
  read_gguf_windows(keys, config, kGemma3Period);
  RopeConfig local;
  local.rotary_dim = config.rope.rotary_dim;
  local.theta = keys.get_double("rope.freq_base_swa", kLocalTheta);
  set_local_rope(config, local);
}

void write_gemma2(const ModelConfig& config, const GgufKeyWriter& keys) {
  keys.set_float("attn_logit_softcapping", static_cast<double>(config.attention_soft_cap));
  keys.set_float("final_logit_softcapping", static_cast<double>(config.logit_soft_cap));
  write_gguf_windows(config, keys, kGemma2Period);
}

void write_gemma3(const ModelConfig& config, const GgufKeyWriter& keys) {
  if (config.logit_soft_cap != 0) keys.set_float("final_logit_softcapping", static_cast<double>(config.logit_soft_cap));
  write_gguf_windows(config, keys, kGemma3Period);
  if (!config.more_ropes.empty()) keys.set_float("rope.freq_base_swa", config.more_ropes[0].theta);
}

constexpr const char* kGemmaDefaults = R"({"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": true})";

constexpr const char* kGemma2Defaults = R"({
  "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "query_pre_attn_scalar": 256,
  "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})";

/// Everything: the image models' files leave out of their text part what is as here.
constexpr const char* kGemma3Defaults = R"({
  "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
  "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
  "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096})";

}  // namespace

extern const Architecture gemma, gemma2, gemma3, gemma3_image;
const Architecture gemma{"GemmaForCausalLM", "gemma", gemma_hf, gemma_gguf, nullptr, kGemmaDefaults};
const Architecture gemma2{.hf_name = "Gemma2ForCausalLM",
                          .gguf_name = "gemma2",
                          .adjust_hf = gemma2_hf,
                          .adjust_gguf = gemma2_gguf,
                          .hf_defaults = kGemma2Defaults,
                          .write_gguf = write_gemma2};
const Architecture gemma3{.hf_name = "Gemma3ForCausalLM",
                          .gguf_name = "gemma3",
                          .adjust_hf = gemma3_hf,
                          .adjust_gguf = gemma3_gguf,
                          .hf_defaults = kGemma3Defaults,
                          .write_gguf = write_gemma3};
const Architecture gemma3_image{.hf_name = "Gemma3ForConditionalGeneration",
                                .gguf_name = nullptr,
                                .adjust_hf = gemma3_hf,
                                .adjust_gguf = nullptr,
                                .text_key = "text_config",
                                .hf_defaults = kGemma3Defaults,
                                .choose_names = gemma3_names,
                                .written_as = "gemma3"};

}  // namespace pagoda::arch

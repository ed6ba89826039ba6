// gpt-oss: attention sinks, windows in every other layer, biases everywhere, experts whose gate and up rows alternate.
#include "core/check.h"
#include "model/arch/experts.h"
#include "model/arch/layer_patterns.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr int64_t kWindowPeriod = 2;
constexpr double kSwigluAlpha = 1.702, kSwigluLimit = 7;  // of Activation::clamped_swiglu

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.sinks = "self_attn.sinks";
  names.router = "mlp.router";
  names.expert_gate_up = "mlp.experts.gate_up_proj";
  names.expert_down = "mlp.experts.down_proj";
  return names;
}();

constexpr TensorNames kGgufOwnNames = [] {
  TensorNames names = kGgufNames;
  names.mlp_norm = "post_attention_norm";
  return names;
}();

void set_block(ModelConfig& config) {
  config.activation = Activation::clamped_swiglu;
  config.attention_sinks = true;
  config.moe.route.softmax_first = false;
  config.moe.router_bias = config.moe.expert_bias = true;
}

void require_constant(const Json& json, const char* key, double supported) {
  const double value = json.get_double(key, supported);
  require(value == supported, "config.json: ", key, " ", value, " is not supported, only ", supported, " is");
}

void gpt_oss_hf(const Json& json, ModelConfig& config) {
  require(config.activation == Activation::silu, "config.json: gpt-oss is supported with hidden_act silu, got '",
          json.get_string("hidden_act", ""), "'");
  require_constant(json, "swiglu_alpha", kSwigluAlpha);
  require_constant(json, "swiglu_limit", kSwigluLimit);
  const Json* rope = json.find(any_key(json, {"rope_parameters", "rope_scaling"}));
  require(rope && !rope->is_null(), "config.json: gpt-oss needs rope_parameters or rope_scaling");
  set_block(config);
  read_hf_experts(json, config.intermediate_size, config);
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", true);
  const int window = read_int(json, "sliding_window", 0);
  if (!read_layer_types(json, config, window)) set_periodic_windows(config, window, kWindowPeriod);
  config.layout.names = &kNames;
  config.layout.experts_transposed = true;
  config.layout.expert_gate_up_alternates = true;
}

/// What files do not say: that yarn's limits lie between pairs.
void gpt_oss_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config);
  read_gguf_windows(keys, config, kWindowPeriod);
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  config.rope.truncate = false;
}

void write_gpt_oss(const ModelConfig& config, const GgufKeyWriter& keys) { write_gguf_windows(config, keys, kWindowPeriod); }

constexpr const char* kDefaults = R"({"num_local_experts": 128, "num_experts_per_tok": 4, "head_dim": 64, "sliding_window": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 150000})";

}  // namespace

extern const Architecture gpt_oss;
const Architecture gpt_oss{.hf_name = "GptOssForCausalLM",
                           .gguf_name = "gpt-oss",
                           .adjust_hf = gpt_oss_hf,
                           .adjust_gguf = gpt_oss_gguf,
                           .hf_defaults = kDefaults,
                           .gguf_layout = {.names = &kGgufOwnNames},
                           .write_gguf = write_gpt_oss};

}  // namespace pagoda::arch

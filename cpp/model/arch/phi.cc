// Phi-3, 3.5, Phi-4 and Phi-4-mini (Phi3ForCausalLM): a Llama with fused matrices, rotation of a part of a head and longrope.
// Phi-1, 1.5 and 2 (PhiForCausalLM): attention and a plain MLP side by side behind one LayerNorm, biases everywhere.
#include "core/check.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames fused(TensorNames names, const char* qkv, const char* gate_up) {
  names.qkv = qkv;
  names.gate_up = gate_up;
  return names;
}

constexpr TensorNames kPhi3Names = fused(kHfNames, "self_attn.qkv_proj", "mlp.gate_up_proj");
constexpr TensorNames kPhi3GgufNames = fused(kGgufNames, "attn_qkv", "ffn_up");

void phi3_hf(const Json& json, ModelConfig& config) {
  config.layout.names = &kPhi3Names;
  config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
  require(config.rope.scaling == RopeScaling::none || config.rope.scaling == RopeScaling::longrope,
          "config.json: Phi3ForCausalLM's rope scaling type must be default or longrope");
}

constexpr TensorNames phi_names() {
  TensorNames names = kHfNames;
  names.final_norm = "model.final_layernorm";
  names.mlp_norm = names.gate = nullptr;
  names.out = "self_attn.dense";
  names.up = "mlp.fc1";
  names.down = "mlp.fc2";
  return names;
}

constexpr TensorNames kPhiNames = phi_names();
constexpr TensorNames kPhi2FusedGgufNames = fused(kGgufNames, "attn_qkv", nullptr);

void set_phi_block(ModelConfig& config) {
  config.norm = NormKind::layer;
  config.norm_bias = true;
  config.parallel_block = true;
  config.mlp_norm = false;
  config.gated_mlp = false;
  config.qkv_bias = config.out_bias = config.mlp_bias = config.lm_head_bias = true;
}

void phi_hf(const Json& json, ModelConfig& config) {
  set_phi_block(config);
  config.layout.names = &kPhiNames;
  require_switch(json, "qk_layernorm", false);
}

/// Older files have q, k and v in one tensor.
void phi2_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_phi_block(config);
  config.activation = Activation::gelu_tanh;
  if (keys.has_tensor("blk.0.attn_qkv.weight")) config.layout.names = &kPhi2FusedGgufNames;
}

constexpr const char* kPhiDefaults = R"({"partial_rotary_factor": 0.5, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5})";
constexpr const char* kPhi3Defaults = R"({"original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5})";

}  // namespace

extern const Architecture phi, phi3;
const Architecture phi{"PhiForCausalLM", "phi2", phi_hf, phi2_gguf, nullptr, kPhiDefaults};
const Architecture phi3{.hf_name = "Phi3ForCausalLM",
                        .gguf_name = "phi3",
                        .adjust_hf = phi3_hf,
                        .adjust_gguf = nullptr,
                        .hf_defaults = kPhi3Defaults,
                        .gguf_layout = {.names = &kPhi3GgufNames}};

}  // namespace pagoda::arch

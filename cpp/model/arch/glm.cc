// GLM-4 (GlmForCausalLM) and GLM-4-0414 (Glm4ForCausalLM): half of each head rotated in pairs of neighbours, gate and up in one
// matrix; the latter norms the outputs of attention and MLP as well.
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.gate_up = "mlp.gate_up_proj";
  names.post_attn_norm = "post_self_attn_layernorm";
  names.post_mlp_norm = "post_mlp_layernorm";
  return names;
}();

constexpr TensorNames kGlmGgufNames = [] {
  TensorNames names = kGgufNames;
  names.gate_up = "ffn_up";
  return names;
}();

void glm_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = json.get_bool("attention_bias");
  config.layout.rope_rows_interleaved = true;
  config.layout.names = &kNames;
}

void glm4_hf(const Json& json, ModelConfig& config) {
  glm_hf(json, config);
  config.post_attn_norm = config.post_mlp_norm = true;
}

void glm4_gguf(const GgufKeys& keys, ModelConfig& config) {
  config.post_attn_norm = config.post_mlp_norm = true;
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
}

constexpr const char* kDefaults =
    R"({"partial_rotary_factor": 0.5, "attention_bias": true, "rms_norm_eps": 1.5625e-7, "head_dim": 128})";

}  // namespace

extern const Architecture glm, glm4;
const Architecture glm{"GlmForCausalLM", nullptr, glm_hf, nullptr, nullptr, kDefaults};
const Architecture glm4{.hf_name = "Glm4ForCausalLM",
                        .gguf_name = "glm4",
                        .adjust_hf = glm4_hf,
                        .adjust_gguf = glm4_gguf,
                        .hf_defaults = kDefaults,
                        .gguf_layout = {.names = &kGlmGgufNames, .rope_rows_interleaved = true}};

}  // namespace pagoda::arch

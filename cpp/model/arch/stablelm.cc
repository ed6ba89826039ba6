// StableLM 3B and StableLM 2: LayerNorm with bias, a part of each head rotated; the larger ones norm each head of q and k with
// a weight of its own and run attention and MLP side by side.
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.q_norm = "self_attn.q_layernorm.norms.";
  names.k_norm = "self_attn.k_layernorm.norms.";
  return names;
}();

void set_block(ModelConfig& config, bool parallel, bool head_norms) {
  config.norm = config.qk_norm_kind = NormKind::layer;
  config.norm_bias = true;
  config.parallel_block = parallel;
  config.mlp_norm = !parallel;
  if (head_norms) config.qk_norm = QkNorm::own_head;
}

void stablelm_hf(const Json& json, ModelConfig& config) {
  set_block(config, json.get_bool("use_parallel_residual", false), json.get_bool("qk_layernorm", false));
  config.qkv_bias = json.get_bool("use_qkv_bias", false);
  config.layout.names = &kNames;
}

/// What the metadata says of the parallel residual is wrong in some files; the tensors tell.
void stablelm_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config, !keys.has_tensor("blk.0.ffn_norm.weight"), keys.has_tensor("blk.0.attn_q_norm.weight"));
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
}

void write_stablelm(const ModelConfig& config, const GgufKeyWriter& keys) {
  keys.set_bool("use_parallel_residual", config.parallel_block);
}

constexpr const char* kDefaults = R"({"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5})";

}  // namespace

extern const Architecture stablelm;
const Architecture stablelm{.hf_name = "StableLmForCausalLM",
                            .gguf_name = "stablelm",
                            .adjust_hf = stablelm_hf,
                            .adjust_gguf = stablelm_gguf,
                            .hf_defaults = kDefaults,
                            .write_gguf = write_stablelm};

}  // namespace pagoda::arch

// StarCoder 2: LayerNorm, biases, a window in every layer, an MLP without gate.
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.up = "mlp.c_fc";
  names.down = "mlp.c_proj";
  return names;
}();

void set_block(ModelConfig& config) {
  config.norm = NormKind::layer;
  config.norm_bias = true;
  config.gated_mlp = false;
}

void starcoder2_hf(const Json& json, ModelConfig& config) {
  set_block(config);
  config.norm_eps = read_float(json, "norm_epsilon", 0);
  config.qkv_bias = config.out_bias = config.mlp_bias = json.get_bool("use_bias", true);
  config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
  config.layout.names = &kNames;
}

void starcoder2_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config);
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = keys.has_tensor("blk.0.ffn_up.bias");
  config.activation = Activation::gelu_tanh;
}

constexpr const char* kDefaults = R"({"tie_word_embeddings": true, "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5})";

}  // namespace

extern const Architecture starcoder2;
const Architecture starcoder2{"Starcoder2ForCausalLM", "starcoder2", starcoder2_hf, starcoder2_gguf, nullptr, kDefaults};

}  // namespace pagoda::arch

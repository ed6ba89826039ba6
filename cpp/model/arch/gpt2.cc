// GPT-2: learned positions, LayerNorm, biases everywhere, q, k and v in one matrix, matrices stored [in, out].
#include "io/weight_source.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.embedding = "transformer.wte";
  names.positions = "transformer.wpe";
  names.final_norm = "transformer.ln_f";
  names.layer = "transformer.h.";
  names.attn_norm = "ln_1";
  names.mlp_norm = "ln_2";
  names.qkv = "attn.c_attn";
  names.out = "attn.c_proj";
  names.up = "mlp.c_fc";
  names.down = "mlp.c_proj";
  return names;
}();

/// As OpenAI's own conversion has them.
constexpr TensorNames kBareNames = [] {
  TensorNames names = kNames;
  names.embedding = "wte";
  names.positions = "wpe";
  names.final_norm = "ln_f";
  names.layer = "h.";
  return names;
}();

constexpr TensorNames kGpt2GgufNames = [] {
  TensorNames names = kGgufNames;
  names.qkv = "attn_qkv";
  return names;
}();

void set_block(ModelConfig& config) {
  config.norm = NormKind::layer;
  config.norm_bias = true;
  config.gated_mlp = false;
  config.qkv_bias = config.out_bias = config.mlp_bias = true;
  config.learned_positions = true;
}

void gpt2_hf(const Json& json, ModelConfig& config) {
  set_block(config);
  // reorder_and_upcast_attn needs nothing: it is about sums in half precision.
  require_switch(json, "scale_attn_by_inverse_layer_idx", false);
  require_switch(json, "add_cross_attention", false);
  if (!json.get_bool("scale_attn_weights", true)) config.attention_scale = 1;
  config.layout.names = &kNames;
  config.layout.transposed = true;
}

void gpt2_names(const WeightSource& source, ModelConfig& config) {
  if (source.find_bytes("wte.weight")) config.layout.names = &kBareNames;
}

void gpt2_gguf(const GgufKeys&, ModelConfig& config) {
  set_block(config);
  config.activation = Activation::gelu_tanh;
}

constexpr const char* kDefaults =
    R"({"tie_word_embeddings": true, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5})";

}  // namespace

extern const Architecture gpt2;
const Architecture gpt2{.hf_name = "GPT2LMHeadModel",
                        .gguf_name = "gpt2",
                        .adjust_hf = gpt2_hf,
                        .adjust_gguf = gpt2_gguf,
                        .hf_defaults = kDefaults,
                        .choose_names = gpt2_names,
                        .gguf_layout = {.names = &kGpt2GgufNames}};

}  // namespace pagoda::arch

// GPT-NeoX 20B and Pythia: LayerNorm, biases, a part of each head rotated, q, k and v of each head side by side in one matrix,
// attention and MLP (each with a norm of its own) in parallel unless told otherwise.
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.embedding = "gpt_neox.embed_in";
  names.lm_head = "embed_out";
  names.final_norm = "gpt_neox.final_layer_norm";
  names.layer = "gpt_neox.layers.";
  names.qkv = "attention.query_key_value";
  names.out = "attention.dense";
  names.up = "mlp.dense_h_to_4h";
  names.down = "mlp.dense_4h_to_h";
  return names;
}();

constexpr TensorNames kNeoxGgufNames = [] {
  TensorNames names = kGgufNames;
  names.qkv = "attn_qkv";
  return names;
}();

void set_block(ModelConfig& config) {
  config.norm = NormKind::layer;
  config.norm_bias = true;
  config.gated_mlp = false;
  config.qkv_bias = config.out_bias = config.mlp_bias = true;
}

void neox_hf(const Json& json, ModelConfig& config) {
  set_block(config);
  config.parallel_block = json.get_bool("use_parallel_residual", true);
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", true);
  config.layout.names = &kNames;
  config.layout.qkv_order = QkvOrder::grouped;
}

/// The file does not say which gelu; Pythia's is the exact one.
void neox_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config);
  config.parallel_block = keys.get_bool("use_parallel_residual", true);
  config.activation = Activation::gelu;
}

void write_neox(const ModelConfig& config, const GgufKeyWriter& keys) {
  keys.set_bool("use_parallel_residual", config.parallel_block);
}

constexpr const char* kDefaults = R"({"rotary_pct": 0.25, "hidden_act": "gelu", "layer_norm_eps": 1e-5})";

}  // namespace

extern const Architecture neox;
/// Converters put the rows of q, k and v in three stacks.
const Architecture neox{.hf_name = "GPTNeoXForCausalLM",
                        .gguf_name = "gptneox",
                        .adjust_hf = neox_hf,
                        .adjust_gguf = neox_gguf,
                        .hf_defaults = kDefaults,
                        .gguf_layout = {.names = &kNeoxGgufNames},
                        .write_gguf = write_neox};

}  // namespace pagoda::arch

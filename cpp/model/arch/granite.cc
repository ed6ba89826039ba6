// Granite 3 (dense): a Llama with factors on embeddings, q·k, what a block adds, and logits.
#include "core/check.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

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
  config.layout.rope_rows_interleaved = true;
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = keys.has_tensor("blk.0.ffn_up.bias");
  config.embedding_scale = keys.get_float("embedding_scale", 1);
  config.attention_scale = keys.get_float("attention.scale", 0);
  config.residual_scale = keys.get_float("residual_scale", 1);
  config.logit_scale = inverse(keys.full("logit_scale"), keys.get_float("logit_scale", 1));
  if (!keys.get_bool("rope.scaling.finetuned", true)) config.layer_ropes.assign(config.windows.size(), ModelConfig::kNoRope);
}

}  // namespace

extern const Architecture granite;
const Architecture granite{"GraniteForCausalLM", "granite", granite_hf, granite_gguf};

}  // namespace pagoda::arch

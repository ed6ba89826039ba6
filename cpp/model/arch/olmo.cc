// OLMo 1: a Llama whose norms are LayerNorms without weight and bias.
#include "core/check.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

void set_block(ModelConfig& config) {
  config.norm = NormKind::layer;
  config.norm_weight = false;
  config.norm_eps = 1e-5f;
}

void olmo_hf(const Json& json, ModelConfig& config) {
  set_block(config);
  const Json* clip = json.find("clip_qkv");
  require(!clip || clip->is_null(), "config.json: clip_qkv ", clip ? clip->describe() : "", " is not supported");
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
}

void olmo_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config);
  const double clip = keys.get_double("attention.clamp_kqv", 0);
  require(clip == 0, keys.file.describe(), ": ", keys.full("attention.clamp_kqv"), " ", clip, " is not supported");
}

}  // namespace

extern const Architecture olmo;
const Architecture olmo{.hf_name = "OlmoForCausalLM",
                        .gguf_name = "olmo",
                        .adjust_hf = olmo_hf,
                        .adjust_gguf = olmo_gguf,
                        .gguf_layout = {.names = &kGgufNames, .rope_rows_interleaved = true}};

}  // namespace pagoda::arch

// OLMoE: q and k normed over all heads together, a mixture of experts in every layer.
#include "core/check.h"
#include "model/arch/experts.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

void olmoe_hf(const Json& json, ModelConfig& config) {
  const Json* clip = json.find("clip_qkv");
  require(!clip || clip->is_null(), "config.json: clip_qkv ", clip ? clip->describe() : "", " is not supported");
  config.qk_norm = QkNorm::row;
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  read_hf_experts(json, config.intermediate_size, config);
  config.moe.route.normalise = json.get_bool("norm_topk_prob", false);
}

void olmoe_gguf(const GgufKeys& keys, ModelConfig& config) {
  const double clip = keys.get_double("attention.clamp_kqv", 0);
  require(clip == 0, keys.file.describe(), ": ", keys.full("attention.clamp_kqv"), " ", clip, " is not supported");
  config.qk_norm = QkNorm::row;
  config.moe.route.normalise = keys.get_bool("expert_weights_norm", false);
}

}  // namespace

extern const Architecture olmoe;
const Architecture olmoe{.hf_name = "OlmoeForCausalLM",
                         .gguf_name = "olmoe",
                         .adjust_hf = olmoe_hf,
                         .adjust_gguf = olmoe_gguf,
                         .hf_defaults = R"({"num_experts": 64, "num_experts_per_tok": 8, "rms_norm_eps": 1e-5})",
                         .choose_names = choose_stacked_experts};

}  // namespace pagoda::arch

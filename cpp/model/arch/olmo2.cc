// OLMo 2 and 3: norms only behind attention and MLP, q and k normed over all heads together. OLMo 3 has windows in three of
// four layers, which rotate without the scaling of the others. GGUF has one name for both.
#include "model/arch/layer_patterns.h"
#include "model/arch/layer_ropes.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr int64_t kWindowPeriod = 4;
constexpr double kOlmo3Theta = 500000;

constexpr TensorNames post_norms() {
  TensorNames names = kHfNames;
  names.attn_norm = names.mlp_norm = nullptr;
  names.post_attn_norm = "post_attention_layernorm";
  names.post_mlp_norm = "post_feedforward_layernorm";
  return names;
}

constexpr TensorNames kNames = post_norms();

void set_block(ModelConfig& config) {
  config.attn_norm = config.mlp_norm = false;
  config.post_attn_norm = config.post_mlp_norm = true;
  config.qk_norm = QkNorm::row;
}

void olmo2_hf(const Json& json, ModelConfig& config) {
  set_block(config);
  config.layout.names = &kNames;
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
}

void olmo3_hf(const Json& json, ModelConfig& config) {
  olmo2_hf(json, config);
  const int window = read_int(json, "sliding_window", 0);
  if (!read_layer_types(json, config, window)) set_periodic_windows(config, window, kWindowPeriod);
  read_hf_layer_ropes(json, config, kOlmo3Theta, json.get_double("rope_theta", kOlmo3Theta));
}

void olmo2_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config);
  if (keys.get_int("attention.sliding_window", 0) == 0) return;
  read_gguf_windows(keys, config, kWindowPeriod);
  RopeConfig local;
  local.rotary_dim = config.rope.rotary_dim;
  local.theta = keys.get_double("rope.freq_base_swa", config.rope.theta);
  set_local_rope(config, local);
}

void write_olmo2(const ModelConfig& config, const GgufKeyWriter& keys) {
  write_gguf_windows(config, keys, kWindowPeriod);
  if (!config.more_ropes.empty()) keys.set_float("rope.freq_base_swa", config.more_ropes[0].theta);
}

}  // namespace

extern const Architecture olmo2, olmo3;
const Architecture olmo2{.hf_name = "Olmo2ForCausalLM",
                         .gguf_name = "olmo2",
                         .adjust_hf = olmo2_hf,
                         .adjust_gguf = olmo2_gguf,
                         .hf_defaults = R"({"rms_norm_eps": 1e-5})",
                         .write_gguf = write_olmo2};
const Architecture olmo3{.hf_name = "Olmo3ForCausalLM",
                         .gguf_name = nullptr,
                         .adjust_hf = olmo3_hf,
                         .adjust_gguf = nullptr,
                         .hf_defaults = R"({"rms_norm_eps": 1e-5, "sliding_window": 4096})",
                         .written_as = "olmo2"};

}  // namespace pagoda::arch

// Cohere's Command-R, Command-R+ and Aya (CohereForCausalLM) and Command-R7B and Command-A (Cohere2ForCausalLM): attention and
// MLP side by side behind one LayerNorm without bias, rotary pairs of neighbours, scaled logits. Cohere 2 has a window and a
// rotation in three of four layers, neither in the fourth.
#include <algorithm>

#include "core/check.h"
#include "model/arch/layer_patterns.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr int64_t kWindowPeriod = 4;

void set_block(ModelConfig& config) {
  config.norm = config.qk_norm_kind = NormKind::layer;
  config.parallel_block = true;
  config.mlp_norm = false;
}

void cohere_hf(const Json& json, ModelConfig& config) {
  set_block(config);
  config.layout.rope_rows_interleaved = true;
  require_switch(json, "use_parallel_block", true);
  require_switch(json, "use_gated_activation", true);
  config.logit_scale = read_float(json, "logit_scale", 1);
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  if (json.get_bool("use_qk_norm", false)) config.qk_norm = QkNorm::own_head;
  // Command-R says 8192 positions but was trained on model_max_length.
  config.max_context = std::max(config.max_context, json.get_int("model_max_length", 0));
}

void cohere_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_block(config);
  config.logit_scale = keys.get_float("logit_scale", 0.0625);
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  if (keys.has_tensor("blk.0.attn_q_norm.weight")) config.qk_norm = QkNorm::own_head;
}

void write_cohere(const ModelConfig& config, const GgufKeyWriter& keys) {
  keys.set_float("logit_scale", static_cast<double>(config.logit_scale));
}

void cohere2_hf(const Json& json, ModelConfig& config) {
  cohere_hf(json, config);
  const int window = read_int(json, "sliding_window", 0);
  require(window >= 1, "config.json: sliding_window must be >= 1, got ", window);
  if (!read_layer_types(json, config, window)) {
    set_periodic_windows(config, window, json.get_int("sliding_window_pattern"));
  }
  rotate_windowed_layers(config);
}

void cohere2_gguf(const GgufKeys& keys, ModelConfig& config) {
  cohere_gguf(keys, config);
  require(keys.get_small("attention.sliding_window", 0) >= 1, keys.file.describe(), ": ", keys.full("attention.sliding_window"),
          " must be >= 1, got ", keys.get_small("attention.sliding_window", 0));
  read_gguf_windows(keys, config, kWindowPeriod);
  rotate_windowed_layers(config);
}

void write_cohere2(const ModelConfig& config, const GgufKeyWriter& keys) {
  write_cohere(config, keys);
  write_gguf_windows(config, keys, kWindowPeriod);
}

constexpr TensorLayout kGgufLayout{.names = &kGgufNames, .rope_rows_interleaved = true};

constexpr const char* kDefaults =
    R"({"tie_word_embeddings": true, "logit_scale": 0.0625, "layer_norm_eps": 1e-5, "rope_theta": 500000.0})";
constexpr const char* kCohere2Defaults = R"({
  "tie_word_embeddings": true, "logit_scale": 0.0625, "layer_norm_eps": 1e-5,
  "sliding_window": 4096, "sliding_window_pattern": 4})";

}  // namespace

extern const Architecture cohere, cohere2;
const Architecture cohere{.hf_name = "CohereForCausalLM",
                          .gguf_name = "command-r",
                          .adjust_hf = cohere_hf,
                          .adjust_gguf = cohere_gguf,
                          .hf_defaults = kDefaults,
                          .gguf_layout = kGgufLayout,
                          .write_gguf = write_cohere};
const Architecture cohere2{.hf_name = "Cohere2ForCausalLM",
                           .gguf_name = "cohere2",
                           .adjust_hf = cohere2_hf,
                           .adjust_gguf = cohere2_gguf,
                           .hf_defaults = kCohere2Defaults,
                           .gguf_layout = kGgufLayout,
                           .write_gguf = write_cohere2};

}  // namespace pagoda::arch

// EXAONE 3 and 3.5 (a Llama with names of its own) and EXAONE 4: norms behind attention and MLP instead of before, normed q and
// k heads; where there is a window, the layers without it do not rotate.
#include "core/check.h"
#include "model/arch/layer_patterns.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr int64_t kWindowPeriod = 4;

constexpr TensorNames kExaoneNames = [] {
  TensorNames names = kHfNames;
  names.embedding = "transformer.wte";
  names.final_norm = "transformer.ln_f";
  names.layer = "transformer.h.";
  names.attn_norm = "ln_1";
  names.mlp_norm = "ln_2";
  names.q = "attn.attention.q_proj";
  names.k = "attn.attention.k_proj";
  names.v = "attn.attention.v_proj";
  names.out = "attn.attention.out_proj";
  names.gate = "mlp.c_fc_0";
  names.up = "mlp.c_fc_1";
  names.down = "mlp.c_proj";
  return names;
}();

constexpr TensorNames kExaone4Names = [] {
  TensorNames names = kHfNames;
  names.post_attn_norm = "post_attention_layernorm";
  names.post_mlp_norm = "post_feedforward_layernorm";
  return names;
}();

void exaone_hf(const Json&, ModelConfig& config) { config.layout.names = &kExaoneNames; }

void set_exaone4_block(ModelConfig& config) {
  config.attn_norm = config.mlp_norm = false;
  config.post_attn_norm = config.post_mlp_norm = true;
  config.qk_norm = QkNorm::head;
}

/// "LLLG": windows where there is an L; the last layer never has one.
void read_pattern_letters(const std::string& pattern, int window, ModelConfig& config) {
  require(!pattern.empty() && pattern.find_first_not_of("LG") == std::string::npos,
          "config.json: sliding_window_pattern must be a number or letters L and G, got '", pattern, "'");
  for (size_t layer = 0; layer + 1 < config.windows.size(); ++layer) {
    config.windows[layer] = pattern[layer % pattern.size()] == 'L' ? window : 0;
  }
}

void read_exaone4_windows(const Json& json, int window, ModelConfig& config) {
  if (read_layer_types(json, config, window)) return;
  const Json* pattern = json.find("sliding_window_pattern");
  if (pattern && pattern->is_string()) return read_pattern_letters(pattern->as_string(), window, config);
  set_periodic_windows(config, window, json.get_int("sliding_window_pattern"));
}

void exaone4_hf(const Json& json, ModelConfig& config) {
  set_exaone4_block(config);
  config.layout.names = &kExaone4Names;
  const int window = read_int(json, "sliding_window", 0);
  if (window == 0) return;
  read_exaone4_windows(json, window, config);
  rotate_windowed_layers(config);
}

void exaone4_gguf(const GgufKeys& keys, ModelConfig& config) {
  set_exaone4_block(config);
  if (keys.get_small("attention.sliding_window", 0) == 0) return;
  read_gguf_windows(keys, config, kWindowPeriod);
  rotate_windowed_layers(config);
}

void write_exaone4(const ModelConfig& config, const GgufKeyWriter& keys) { write_gguf_windows(config, keys, kWindowPeriod); }

constexpr const char* kExaoneDefaults = R"({"tie_word_embeddings": true, "layer_norm_epsilon": 1e-6})";
constexpr const char* kExaone4Defaults = R"({"sliding_window": 4096, "sliding_window_pattern": 4, "rms_norm_eps": 1e-5})";

}  // namespace

extern const Architecture exaone, exaone4;
const Architecture exaone{"ExaoneForCausalLM", "exaone", exaone_hf, nullptr, nullptr, kExaoneDefaults};
const Architecture exaone4{.hf_name = "Exaone4ForCausalLM",
                           .gguf_name = "exaone4",
                           .adjust_hf = exaone4_hf,
                           .adjust_gguf = exaone4_gguf,
                           .hf_defaults = kExaone4Defaults,
                           .write_gguf = write_exaone4};

}  // namespace pagoda::arch

// Qwen2 and Qwen2.5 (bias on q, k and v) and Qwen3 (normed q and k heads).
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

/// Windows apply to layers that `layer_types` calls sliding, or, in older files, to layers from max_window_layers on.
void read_qwen_windows(const Json& json, ModelConfig& config) {
  if (!json.get_bool("use_sliding_window", false)) return;
  const int window = read_int(json, "sliding_window", 0);
  if (read_layer_types(json, config, window)) return;
  const int64_t first = json.get_int("max_window_layers");
  for (size_t layer = 0; layer < config.windows.size(); ++layer) {
    config.windows[layer] = static_cast<int64_t>(layer) >= first ? window : 0;
  }
}

void qwen2_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = true;
  read_qwen_windows(json, config);
}

void qwen2_gguf(const GgufKeys&, ModelConfig& config) { config.qkv_bias = true; }

void qwen3_hf(const Json& json, ModelConfig& config) {
  config.qk_norm = QkNorm::head;
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  read_qwen_windows(json, config);
}

void qwen3_gguf(const GgufKeys&, ModelConfig& config) { config.qk_norm = QkNorm::head; }

constexpr const char* kQwen2Defaults = R"({"sliding_window": 4096, "max_window_layers": 28})";
constexpr const char* kQwen3Defaults = R"({"sliding_window": 4096, "max_window_layers": 28, "head_dim": 128})";

}  // namespace

extern const Architecture qwen2, qwen3;
const Architecture qwen2{"Qwen2ForCausalLM", "qwen2", qwen2_hf, qwen2_gguf, nullptr, kQwen2Defaults};
const Architecture qwen3{"Qwen3ForCausalLM", "qwen3", qwen3_hf, qwen3_gguf, nullptr, kQwen3Defaults};

}  // namespace pagoda::arch

// Qwen2 and Qwen2.5 (bias on q, k and v) and Qwen3 (normed q and k heads).
#include "core/check.h"
#include "model/arch/arch.h"
#include "model/hf_config.h"

namespace pagoda::arch {
namespace {

/// Windows apply to layers that `layer_types` calls sliding, or, in older files, to layers from max_window_layers on.
void read_windows(const Json& json, ModelConfig& config) {
  if (!json.get_bool("use_sliding_window", false)) return;
  const int window = read_int(json, "sliding_window", 0);
  const Json* types = json.find("layer_types");
  const bool typed = types && types->is_array();
  require(!typed || types->items().size() == config.windows.size(), "config.json: layer_types has ",
          typed ? types->items().size() : 0, " entries, num_hidden_layers is ", config.windows.size());
  const int64_t first = json.get_int("max_window_layers", 0);
  for (size_t layer = 0; layer < config.windows.size(); ++layer) {
    const bool slides = typed ? types->items()[layer].as_string() == "sliding_attention" : static_cast<int64_t>(layer) >= first;
    config.windows[layer] = slides ? window : 0;
  }
}

}  // namespace

void qwen2_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = true;
  read_windows(json, config);
}

void qwen2_gguf(ModelConfig& config) { config.qkv_bias = true; }

void qwen3_hf(const Json& json, ModelConfig& config) {
  config.qk_norm = true;
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  read_windows(json, config);
}

void qwen3_gguf(ModelConfig& config) { config.qk_norm = true; }

}  // namespace pagoda::arch

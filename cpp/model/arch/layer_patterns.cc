// Windows and rotations by layer.
#include "model/arch/layer_patterns.h"

#include <algorithm>
#include <variant>
#include <vector>

#include "core/check.h"

namespace pagoda::arch {

void set_periodic_windows(ModelConfig& config, int window, int64_t period) {
  require(period >= 1, "model configuration: the period of sliding_window_pattern must be >= 1, got ", period);
  for (size_t layer = 0; layer < config.windows.size(); ++layer) {
    const bool is_full = (static_cast<int64_t>(layer) + 1) % period == 0;
    config.windows[layer] = is_full ? 0 : window;
  }
}

void read_gguf_windows(const GgufKeys& keys, ModelConfig& config, int64_t period) {
  const int window = keys.get_small("attention.sliding_window", 0);
  const std::string key = keys.full("attention.sliding_window_pattern");
  const GgufValue* pattern = keys.file.find_value(key);
  if (!pattern || !std::holds_alternative<GgufArray>(pattern->held())) {
    return set_periodic_windows(config, window, keys.file.get_int(key, period));
  }
  const GgufArray& is_windowed = pattern->as_array();
  require(is_windowed.size() == config.windows.size(), keys.file.describe(), ": ", key, " has ", is_windowed.size(),
          " entries, block_count is ", config.windows.size());
  for (size_t layer = 0; layer < config.windows.size(); ++layer) {
    config.windows[layer] = is_windowed.bool_at(layer) ? window : 0;
  }
}

void write_gguf_windows(const ModelConfig& config, const GgufKeyWriter& keys, int64_t period) {
  ModelConfig periodic = config;
  set_periodic_windows(periodic, *std::max_element(config.windows.begin(), config.windows.end()), period);
  if (config.windows == periodic.windows) return;
  std::vector<bool> is_windowed;
  for (const int window : config.windows) is_windowed.push_back(window > 0);
  keys.metadata.set(keys.full("attention.sliding_window_pattern"), is_windowed);
}

void rotate_windowed_layers(ModelConfig& config) {
  config.layer_ropes.clear();
  for (const int window : config.windows) config.layer_ropes.push_back(window > 0 ? 0 : ModelConfig::kNoRope);
}

}  // namespace pagoda::arch

// SmolLM3: a Llama in which every fourth layer does not rotate q and k.
#include "core/check.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr int64_t kNoRopePeriod = 4;

void skip_each(int64_t period, ModelConfig& config) {
  require(period >= 1, "config.json: no_rope_layer_interval must be >= 1, got ", period);
  config.layer_ropes.clear();
  for (int layer = 0; layer < config.num_layers; ++layer) {
    config.layer_ropes.push_back((layer + 1) % period != 0 ? 0 : ModelConfig::kNoRope);
  }
}

/// The list has 1 for layers that rotate and 0, despite its name, for those that do not.
void read_no_rope_layers(const Json& json, ModelConfig& config) {
  const Json* rotates = json.find("no_rope_layers");
  if (!rotates || rotates->is_null()) return skip_each(json.get_int("no_rope_layer_interval", kNoRopePeriod), config);
  require(rotates->items().size() == config.windows.size(), "config.json: no_rope_layers has ", rotates->items().size(),
          " entries, num_hidden_layers is ", config.num_layers);
  config.layer_ropes.clear();
  for (const Json& layer : rotates->items()) {
    config.layer_ropes.push_back(layer.as_int() != 0 ? 0 : ModelConfig::kNoRope);
  }
}

void smollm3_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  config.mlp_bias = json.get_bool("mlp_bias", false);
  read_no_rope_layers(json, config);
  const int window = read_int(json, "sliding_window", 0);
  if (read_layer_types(json, config, window) || !json.get_bool("use_sliding_window", false)) return;
  for (size_t layer = 0; layer < config.windows.size(); ++layer) {
    config.windows[layer] = config.layer_ropes[layer] == ModelConfig::kNoRope ? window : 0;
  }
}

void smollm3_gguf(const GgufKeys& keys, ModelConfig& config) {
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = keys.has_tensor("blk.0.ffn_up.bias");
  skip_each(kNoRopePeriod, config);
}

}  // namespace

extern const Architecture smollm3;
const Architecture smollm3{.hf_name = "SmolLM3ForCausalLM",
                           .gguf_name = "smollm3",
                           .adjust_hf = smollm3_hf,
                           .adjust_gguf = smollm3_gguf,
                           .hf_defaults = R"({"rope_theta": 2000000.0, "tie_word_embeddings": true})",
                           .gguf_layout = {.names = &kGgufNames, .rope_rows_interleaved = true}};

}  // namespace pagoda::arch

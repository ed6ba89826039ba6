// Numbers and names of experts.
#include "model/arch/experts.h"

#include "core/check.h"
#include "model/hf_config.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kStackedNames = [] {
  TensorNames names = kHfNames;
  names.expert_gate_up = "mlp.experts.gate_up_proj";
  names.expert_down = "mlp.experts.down_proj";
  return names;
}();

constexpr TensorNames kNumberedGgufNames = [] {
  TensorNames names = kGgufNames;
  names.expert_gate = "ffn_gate.*";
  names.expert_up = "ffn_up.*";
  names.expert_down = "ffn_down.*";
  return names;
}();

}  // namespace

void read_hf_experts(const Json& json, int64_t intermediate_size, ModelConfig& config) {
  const std::string_view count = any_key(json, {"num_experts", "num_local_experts"});
  config.moe.num_experts = read_int(json, count);
  require(config.moe.num_experts >= 1, "config.json: ", count, " must be >= 1, got ", config.moe.num_experts);
  config.moe.route.top_k = read_int(json, "num_experts_per_tok");
  config.moe.intermediate_size = intermediate_size;
  config.sparse_layers.assign(static_cast<size_t>(config.num_layers), true);
}

void read_gguf_mixtral(const GgufKeys& keys, ModelConfig& config) {
  config.moe.route.normalise = true;
  if (keys.has_tensor("blk.0.ffn_gate.0.weight")) config.layout.names = &kNumberedGgufNames;
}

bool has_layer_tensor(const WeightSource& source, const ModelConfig& config, const char* part) {
  for (int layer = 0; layer < config.num_layers; ++layer) {
    if (source.find_bytes(layer_tensor(*config.layout.names, layer, part))) return true;
  }
  return false;
}

void choose_stacked_experts(const WeightSource& source, ModelConfig& config) {
  if (has_layer_tensor(source, config, kStackedNames.expert_gate_up)) config.layout.names = &kStackedNames;
}

}  // namespace pagoda::arch

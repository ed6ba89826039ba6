// Mixtral: a Mistral with a mixture of experts in every layer. GGUF calls it a llama.
#include "model/arch/experts.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.router = "block_sparse_moe.gate";
  names.expert_gate = "block_sparse_moe.experts.*.w1";
  names.expert_up = "block_sparse_moe.experts.*.w3";
  names.expert_down = "block_sparse_moe.experts.*.w2";
  return names;
}();

void mixtral_hf(const Json& json, ModelConfig& config) {
  config.layout.names = &kNames;
  config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
  read_hf_experts(json, config.intermediate_size, config);
  config.moe.route.normalise = true;
}

constexpr const char* kDefaults =
    R"({"num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e6})";

}  // namespace

extern const Architecture mixtral;
const Architecture mixtral{.hf_name = "MixtralForCausalLM",
                           .gguf_name = nullptr,
                           .adjust_hf = mixtral_hf,
                           .adjust_gguf = nullptr,
                           .hf_defaults = kDefaults,
                           .choose_names = choose_stacked_experts,
                           .written_as = "llama"};

}  // namespace pagoda::arch

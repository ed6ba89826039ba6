// Llama 1-3.x and what is a Llama by architecture (SmolLM2, Yi, Falcon 3, ...), and Mistral.
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

void llama_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  config.mlp_bias = json.get_bool("mlp_bias", false);
}

/// GGUF stores the q and k rows of this architecture in interleaved pairs. Mistral checkpoints carry the same name.
void llama_gguf(const GgufKeys&, ModelConfig& config) { config.layout.rope_rows_interleaved = true; }

void mistral_hf(const Json& json, ModelConfig& config) {
  config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
}

}  // namespace

extern const Architecture llama, mistral;
const Architecture llama{"LlamaForCausalLM", "llama", llama_hf, llama_gguf};
const Architecture mistral{"MistralForCausalLM", nullptr, mistral_hf, nullptr};

}  // namespace pagoda::arch

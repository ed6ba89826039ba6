// Llama 1-3.x, SmolLM2 (a Llama by architecture) and Mistral.
#include "model/arch/arch.h"
#include "model/hf_config.h"

namespace pagoda::arch {

void llama_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  config.mlp_bias = json.get_bool("mlp_bias", false);
}

/// GGUF stores the q and k rows of this architecture in interleaved pairs. Mistral checkpoints carry the same name.
void llama_gguf(ModelConfig& config) { config.rope_rows_interleaved = true; }

void mistral_hf(const Json& json, ModelConfig& config) {
  config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
}

}  // namespace pagoda::arch

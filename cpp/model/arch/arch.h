// The family-specific readers that registry.cc lists. One .cc per family.
#pragma once

#include "core/json.h"
#include "model/config.h"

namespace pagoda::arch {

void llama_hf(const Json& json, ModelConfig& config);
void llama_gguf(ModelConfig& config);
void mistral_hf(const Json& json, ModelConfig& config);
void qwen2_hf(const Json& json, ModelConfig& config);
void qwen2_gguf(ModelConfig& config);
void qwen3_hf(const Json& json, ModelConfig& config);
void qwen3_gguf(ModelConfig& config);

}  // namespace pagoda::arch

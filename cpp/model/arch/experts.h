// What the families with mixtures of experts share.
#pragma once

#include <cstdint>

#include "core/json.h"
#include "io/weight_source.h"
#include "model/config.h"
#include "model/gguf_config.h"

namespace pagoda::arch {

/// Makes every layer a mixture of as many experts as `num_experts` or `num_local_experts` says, of which each token passes
/// num_experts_per_tok.
void read_hf_experts(const Json& json, int64_t intermediate_size, ModelConfig& config);

/// Mixtral, which GGUF calls a llama. Older files have a tensor for each expert.
void read_gguf_mixtral(const GgufKeys& keys, ModelConfig& config);

/// Whether any layer has the tensor `part`.
bool has_layer_tensor(const WeightSource& source, const ModelConfig& config, const char* part);

/// An Architecture::choose_names: transformers saves each expert on its own as they were released, unless it is told to keep
/// the form that it computes with: all experts' gates and ups in one tensor, in all families under the same name.
void choose_stacked_experts(const WeightSource& source, ModelConfig& config);

}  // namespace pagoda::arch

// The text part of models that also take images: where their checkpoints keep its tensors. Used by model/arch/*.cc.
#pragma once

#include "io/weight_source.h"
#include "model/config.h"

namespace pagoda::arch {

/// `names` of a model's text part as image models were published: below "language_model.".
constexpr TensorNames published_text_part(TensorNames names) {
  names.embedding = "language_model.model.embed_tokens";
  names.layer = "language_model.model.layers.";
  names.final_norm = "language_model.model.norm";
  names.lm_head = "language_model.lm_head";
  return names;
}

/// The same as transformers calls them inside: below "model.language_model.".
constexpr TensorNames nested_text_part(TensorNames names) {
  names.embedding = "model.language_model.embed_tokens";
  names.layer = "model.language_model.layers.";
  names.final_norm = "model.language_model.norm";
  return names;
}

/// Takes those of the two whose embedding there is. Whether the head is tied can be said in two places of config.json: that it
/// is stored decides.
void choose_text_part(const WeightSource& source, const TensorNames& published, const TensorNames& nested, ModelConfig& config);

}  // namespace pagoda::arch

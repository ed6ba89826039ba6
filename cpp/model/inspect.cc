// Listings of checkpoints. The decoder is planned, so that what is listed is what would be loaded.
#include "model/inspect.h"

#include <algorithm>
#include <memory>
#include <set>

#include "core/check.h"
#include "io/gguf.h"
#include "io/open_weights.h"
#include "model/loader.h"

namespace pagoda {
namespace {

using Facts = std::vector<std::pair<std::string, std::string>>;

std::string rope_text(const RopeConfig& rope) {
  std::string text = str("rotary, theta ", rope.theta, ", ", rope.rotary_dim, " dimensions");
  switch (rope.scaling) {
    case RopeScaling::none:
      return text + (rope.divisors.empty() ? "" : ", divisors of its own for each pair");
    case RopeScaling::linear:
      return text + str(", linear x ", rope.factor);
    case RopeScaling::dynamic:
      return text + str(", dynamic NTK x ", rope.factor, " from ", rope.original_context, " tokens on");
    case RopeScaling::llama3:
      return text + str(", llama3 x ", rope.factor, " of ", rope.original_context, " tokens");
    case RopeScaling::yarn:
      return text + str(", yarn x ", rope.factor, " of ", rope.original_context, " tokens");
    case RopeScaling::longrope:
      return text +
             str(", longrope: long factors when max_model_len exceeds ", rope.original_context, " tokens, else short ones");
  }
  return text;
}

const char* activation_text(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return "silu";
    case Activation::gelu_tanh:
      return "gelu (tanh)";
    case Activation::gelu:
      return "gelu (erf)";
    case Activation::relu:
      return "relu";
    case Activation::clamped_swiglu:
      return "clamped swiglu";
  }
  return "";
}

std::string window_text(const ModelConfig& config) {
  std::set<int> sizes;
  int64_t count = 0;
  for (const int window : config.windows) {
    if (window > 0) sizes.insert(window), ++count;
  }
  if (sizes.empty()) return "none";
  std::string text;
  for (const int size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return str(text, " tokens in ", count, " of ", config.num_layers, " layers");
}

void add_positions(const ModelConfig& config, Facts& facts) {
  if (config.learned_positions) {
    facts.emplace_back("positions", "learned");
    return;
  }
  facts.emplace_back("positions", rope_text(config.rope));
  for (const RopeConfig& rope : config.more_ropes) facts.emplace_back("positions of other layers", rope_text(rope));
  const auto without = std::count(config.layer_ropes.begin(), config.layer_ropes.end(), ModelConfig::kNoRope);
  if (without) facts.emplace_back("layers without positions", std::to_string(without));
}

void add_experts(const ModelConfig& config, Facts& facts) {
  const MoeConfig& moe = config.moe;
  if (moe.num_experts == 0) return;
  const auto sparse = std::count(config.sparse_layers.begin(), config.sparse_layers.end(), true);
  facts.emplace_back("experts", str(moe.route.top_k, " of ", moe.num_experts, ", intermediate size ", moe.intermediate_size,
                                    ", in ", sparse, " of ", config.num_layers, " layers"));
  if (moe.shared_intermediate_size)
    facts.emplace_back("shared expert", str("intermediate size ", moe.shared_intermediate_size));
}

std::string formats_text(const Weight& weight) {
  std::string text;
  std::set<WeightFormat> seen;
  for (const WeightFormat format : weight.part_formats) {
    if (seen.insert(format).second) text += (text.empty() ? "" : ", ") + std::string(weight_format_info(format).name);
  }
  return text;
}

void add_matrices(const DecoderWeights& weights, bool tied, std::vector<MatrixListing>& list) {
  const auto add = [&](int layer, const char* name, const Weight& weight) {
    if (weight) list.push_back({layer, name, weight.rows, weight.cols, formats_text(weight), weight.bytes});
  };
  add(-1, "embedding", weights.embedding);
  add(-1, "positions", weights.positions);
  for (int layer = 0; layer < static_cast<int>(weights.layers.size()); ++layer) {
    const DecoderLayer& w = weights.layers[static_cast<size_t>(layer)];
    add(layer, "qkv", w.qkv);
    add(layer, "out", w.out);
    add(layer, "up", w.mlp.up);
    add(layer, "down", w.mlp.down);
    add(layer, "router", w.router);
    add(layer, "experts.up", w.experts.up);
    add(layer, "experts.down", w.experts.down);
    add(layer, "shared.up", w.shared.up);
    add(layer, "shared.down", w.shared.down);
    add(layer, "shared.scale", w.shared_scale);
  }
  if (!tied) add(-1, "lm_head", weights.lm_head);
}

/// Parameters of experts that a token does not meet.
int64_t idle_parameters(const DecoderWeights& weights, const MoeConfig& moe) {
  int64_t idle = 0;
  for (const DecoderLayer& layer : weights.layers) {
    for (const Weight* weight : {&layer.experts.up, &layer.experts.down}) {
      if (*weight) idle += weight->rows / moe.num_experts * (moe.num_experts - moe.route.top_k) * weight->cols;
    }
  }
  return idle;
}

/// The architecture's name where the rest of the checkpoint cannot be used.
std::string architecture_of(const WeightSource& source) {
  const auto* gguf = dynamic_cast<const GgufFile*>(&source);
  return gguf ? std::string(gguf->get_string("general.architecture", "")) : "";
}

}  // namespace

Facts describe_config(const ModelConfig& config) {
  Facts facts;
  facts.emplace_back("layers", std::to_string(config.num_layers));
  facts.emplace_back("hidden size", std::to_string(config.hidden_size));
  facts.emplace_back("intermediate size",
                     str(config.intermediate_size, config.gated_mlp ? ", gated " : ", ", activation_text(config.activation)));
  facts.emplace_back("attention heads",
                     str(config.num_heads, " of ", config.head_dim, ", ", config.kv_heads, " for keys and values"));
  facts.emplace_back("vocabulary", str(config.vocab_size, config.tied_embeddings ? ", head tied to the embedding" : ""));
  facts.emplace_back("context", str(config.max_context, " tokens"));
  add_positions(config, facts);
  facts.emplace_back("sliding window", window_text(config));
  add_experts(config, facts);
  facts.emplace_back("norms", config.norm == NormKind::rms ? "RMS" : "layer");
  if (config.parallel_block) facts.emplace_back("block", "attention and MLP in parallel");
  if (config.attention_sinks) facts.emplace_back("attention sinks", "one for each head");
  return facts;
}

ModelListing inspect_model(const std::string& path, const std::string& weight_format, const BackendTraits& traits) {
  parse_weight_format(weight_format);  // a slip of the caller, not a fault of the model
  ModelListing listing;
  const std::unique_ptr<WeightSource> source = open_weights(path);
  listing.tensors = source->list();
  listing.warnings = source->warnings();
  listing.architecture = architecture_of(*source);
  try {
    const Checkpoint checkpoint = open_checkpoint(path, weight_format);
    listing.architecture = checkpoint.config.architecture;
    if (checkpoint.quantisation) listing.quantisation = checkpoint.quantisation->describe();
    const std::unique_ptr<Decoder> decoder = plan_decoder(checkpoint, traits, checkpoint.config.max_context);
    listing.facts = describe_config(checkpoint.config);
    add_matrices(decoder->weights(), checkpoint.config.tied_embeddings, listing.matrices);
    listing.num_parameters = decoder->weights().num_parameters;
    listing.num_active_parameters = listing.num_parameters - idle_parameters(decoder->weights(), checkpoint.config.moe);
    listing.packed_bytes = decoder->weights().bytes;
    listing.max_context = checkpoint.config.max_context;
  } catch (const InvalidArgument& refusal) {
    listing.refusal = refusal.what();
  }
  return listing;
}

}  // namespace pagoda

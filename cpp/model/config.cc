// Cross-checks of a model's sizes, before anything is allocated for them.
#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;  // token ids and positions are int32
constexpr int64_t kMaxExperts = 4096;
constexpr double kMaxRopeFactor = 1e6;

void require_size(const char* name, int64_t value, int64_t max) {
  require(value >= 1 && value <= max, "model configuration: ", name, " must be in [1, ", max, "], got ", value);
}

void require_finite(const char* name, double value) {
  require(std::isfinite(value), "model configuration: ", name, " must be a finite number, got ", value);
}

void check_rope(const RopeConfig& rope, int head_dim) {
  require(rope.rotary_dim >= 0 && rope.rotary_dim <= head_dim && rope.rotary_dim % 2 == 0,
          "model configuration: rotary dimension must be even and at most head_dim ", head_dim, ", got ", rope.rotary_dim);
  const bool scaled = rope.scaling != RopeScaling::none;
  require(rope.theta > (scaled ? 1 : 0) && std::isfinite(rope.theta), "model configuration: rope_theta must be > ",
          scaled ? "1 with rope scaling" : "0", ", got ", rope.theta);
  require(rope.factor > 0 && rope.factor <= kMaxRopeFactor, "model configuration: rope scaling factor must be in (0, ",
          kMaxRopeFactor, "], got ", rope.factor);
  require(rope.original_context >= 0 && rope.original_context <= static_cast<double>(kMaxSize),
          "model configuration: rope scaling's original context must be in [0, ", kMaxSize, "], got ", rope.original_context);
  require(rope.scaling != RopeScaling::dynamic || rope.rotary_dim != 2,
          "model configuration: dynamic rope scaling needs a rotary dimension above 2");
  require_finite("rope scaling attention_factor", rope.attention_factor);
}

void check_moe(const MoeConfig& moe) {
  if (moe.num_experts == 0) return;
  require_size("num_experts", moe.num_experts, kMaxExperts);
  require_size("num_experts_per_tok", moe.route.top_k, moe.num_experts);
  require_size("moe_intermediate_size", moe.intermediate_size, kMaxSize);
  require(moe.shared_intermediate_size >= 0 && moe.shared_intermediate_size <= kMaxSize,
          "model configuration: the shared expert's intermediate size must be in [0, ", kMaxSize, "], got ",
          moe.shared_intermediate_size);
  require_finite("the router's scale", static_cast<double>(moe.route.scale));
}

}  // namespace

const RopeConfig* ModelConfig::layer_rope(int layer) const {
  if (learned_positions || (!layer_ropes.empty() && layer_ropes[static_cast<size_t>(layer)] == kNoRope)) return nullptr;
  const size_t index = layer_rope_index(layer);
  return index == 0 ? &rope : &more_ropes[index - 1];
}

size_t ModelConfig::layer_rope_index(int layer) const {
  const int index = layer_ropes.empty() ? 0 : layer_ropes[static_cast<size_t>(layer)];
  return index == kNoRope ? 0 : static_cast<size_t>(index);
}

void ModelConfig::add_eos_token(const char* key, int64_t token) {
  require(token >= 0 && token < vocab_size, key, " must be in [0, ", vocab_size, "), got ", token);
  const auto id = static_cast<int32_t>(token);
  if (std::find(eos_tokens.begin(), eos_tokens.end(), id) == eos_tokens.end()) eos_tokens.push_back(id);
}

void ModelConfig::validate() const {
  require_size("vocab_size", vocab_size, kMaxSize);
  require_size("hidden_size", hidden_size, kMaxSize);
  require_size("intermediate_size", intermediate_size, kMaxSize);
  require_size("num_hidden_layers", num_layers, 4096);
  require_size("num_attention_heads", num_heads, 65536);
  require_size("num_key_value_heads", kv_heads, 65536);
  require_size("max_position_embeddings", max_context, kMaxSize);
  require(num_heads % kv_heads == 0, "model configuration: num_attention_heads ", num_heads,
          " is not a multiple of num_key_value_heads ", kv_heads);
  require(head_dim >= 2 && head_dim <= kMaxHeadDim && head_dim % 2 == 0,
          "model configuration: head_dim must be even and in [2, ", kMaxHeadDim, "], got ", head_dim, " (hidden_size ",
          hidden_size, ", num_attention_heads ", num_heads, ")");
  check_rope(rope, head_dim);
  for (const RopeConfig& other : more_ropes) check_rope(other, head_dim);
  for (const int index : layer_ropes) {
    ensure(index >= kNoRope && index <= static_cast<int>(more_ropes.size()), "layer_ropes names rope ", index);
  }
  require(norm_eps >= 0 && norm_eps < 1, "model configuration: rms_norm_eps must be in [0, 1), got ", norm_eps);
  for (int window : windows) require(window >= 0, "model configuration: sliding_window must be >= 0, got ", window);
  require(attention_soft_cap >= 0 && logit_soft_cap >= 0 && std::isfinite(attention_soft_cap) && std::isfinite(logit_soft_cap),
          "model configuration: soft caps must be finite and >= 0, got ", attention_soft_cap, " for attention and ",
          logit_soft_cap, " for logits");
  for (const float scale : {attention_scale, embedding_scale, residual_scale, logit_scale}) {
    require_finite("a multiplier", static_cast<double>(scale));
  }
  check_moe(moe);
}

}  // namespace pagoda

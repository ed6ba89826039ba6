// Cross-checks of a model's sizes, before anything is allocated for them.
#include "model/config.h"

#include <algorithm>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;  // token ids and positions are int32

void require_size(const char* name, int64_t value, int64_t max) {
  require(value >= 1 && value <= max, "model configuration: ", name, " must be in [1, ", max, "], got ", value);
}

}  // namespace

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
  require(rope.rotary_dim >= 0 && rope.rotary_dim <= head_dim && rope.rotary_dim % 2 == 0,
          "model configuration: rotary dimension must be even and at most head_dim ", head_dim, ", got ", rope.rotary_dim);
  require(rope.theta > 0, "model configuration: rope_theta must be > 0, got ", rope.theta);
  require(rope.factor > 0, "model configuration: rope scaling factor must be > 0, got ", rope.factor);
  require(norm_eps >= 0 && norm_eps < 1, "model configuration: rms_norm_eps must be in [0, 1), got ", norm_eps);
  for (int window : windows) require(window >= 0, "model configuration: sliding_window must be >= 0, got ", window);
}

}  // namespace pagoda

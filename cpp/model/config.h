// What a checkpoint says about its model, in one vocabulary for every family and file kind. Plain data, filled by hf_config.cc,
// gguf_config.cc and model/arch/*.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/tensor_layout.h"

namespace pagoda {

enum class RopeScaling : uint8_t { none, linear, dynamic, llama3, yarn, longrope };

/// Rotary position embedding: pair i of a head turns by position / (theta^(2i / rotary_dim)), scaled as told.
struct RopeConfig {
  double theta = 10000;
  int rotary_dim = 0;  ///< leading part of a head that is rotated
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;            ///< linear, dynamic, llama3, yarn
  double low_freq_factor = 1;   ///< llama3
  double high_freq_factor = 4;  ///< llama3
  double original_context = 0;  ///< all but linear: positions that the model was trained on before it was stretched
  double beta_fast = 32;        ///< yarn: pairs with more turns than this within original_context keep their frequency
  double beta_slow = 1;         ///< yarn: pairs with fewer turns are divided by factor
  bool truncate = true;         ///< yarn: the two limits are rounded to whole pairs
  double attention_factor = 1;  ///< yarn, longrope: cosines and sines are multiplied by it
  std::vector<float> divisors;  ///< GGUF's rope_freqs: pair i's frequency is divided by divisors[i]; empty = none
  /// longrope: the pairs' divisors when all positions lie within original_context, and when not.
  std::vector<float> short_divisors, long_divisors;
};

/// Which norm q and k heads get before the rotation.
enum class QkNorm : uint8_t {
  none,
  head,      ///< over each head, one weight [head_dim] for all heads
  own_head,  ///< over each head, a weight of its own: [heads, head_dim]
  row,       ///< over all heads together: [heads * head_dim]
};

/// Mixture of experts: a router picks top_k experts for each token; their outputs are summed with the router's weights.
struct MoeConfig {
  int num_experts = 0;  ///< 0: the model has none
  int64_t intermediate_size = 0;
  RouteArgs route;
  bool router_bias = false;
  bool expert_bias = false;
  int64_t shared_intermediate_size = 0;  ///< of an expert that every token passes; 0: none
  bool shared_gate = false;              ///< its output is scaled with the sigmoid of a row of its own
};

struct ModelConfig {
  std::string architecture;  ///< as the checkpoint names it: "LlamaForCausalLM", "llama"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  ///< of the dense layers' MLP
  int num_layers = 0;
  int num_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int64_t max_context = 0;
  float norm_eps = 1e-6f;
  Activation activation = Activation::silu;
  bool tied_embeddings = false;
  std::vector<int32_t> eos_tokens;

  // The block. Sequential: x += scale * post(attention(norm(x))); x += scale * post(mlp(norm(x))).
  NormKind norm = NormKind::rms;
  bool norm_bias = false;
  bool norm_weight = true;      ///< false: the block's norms only normalise
  bool attn_norm = true;        ///< before attention
  bool post_attn_norm = false;  ///< of attention's output
  bool mlp_norm = true;         ///< before the MLP; a parallel block without it shares attention's
  bool post_mlp_norm = false;   ///< of the MLP's output
  bool parallel_block = false;  ///< attention and MLP read the same x and are added together
  bool gated_mlp = true;        ///< down(act(gate(h)) * up(h)), else down(act(up(h)))
  bool qkv_bias = false;
  bool out_bias = false;
  bool mlp_bias = false;
  bool lm_head_bias = false;
  MoeConfig moe;
  std::vector<bool> sparse_layers;  ///< [num_layers] whose MLP is a mixture of experts; empty = none

  // Attention.
  QkNorm qk_norm = QkNorm::none;
  NormKind qk_norm_kind = NormKind::rms;
  float attention_scale = 0;  ///< factor of q·k; 0 = 1 / sqrt(head_dim)
  float attention_soft_cap = 0;
  bool attention_sinks = false;
  std::vector<int> windows;  ///< [num_layers] sliding window of each layer, 0 = full attention

  // Positions.
  RopeConfig rope;
  std::vector<RopeConfig> more_ropes;  ///< of layers that use another one than `rope`
  std::vector<int> layer_ropes;    ///< [num_layers] 0 = rope, i = more_ropes[i - 1], kNoRope = none; empty = rope everywhere
  bool learned_positions = false;  ///< a table of max_context rows is added to the embedding

  // Scales.
  float embedding_scale = 1;
  float residual_scale = 1;  ///< of what a block adds to the residual
  float logit_scale = 1;
  float logit_soft_cap = 0;

  TensorLayout layout;

  static constexpr int kNoRope = -1;

  bool is_sparse(int layer) const { return !sparse_layers.empty() && sparse_layers[static_cast<size_t>(layer)]; }
  /// The rope of a layer, null for none, and its place among `rope` and `more_ropes`.
  const RopeConfig* layer_rope(int layer) const;
  size_t layer_rope_index(int layer) const;

  /// Adds an end-of-sequence token unless it is known. Throws InvalidArgument naming `key`, as the file calls it, for a token
  /// outside the vocabulary: samplers write to its logit without another check.
  void add_eos_token(const char* key, int64_t token);

  /// Throws InvalidArgument naming both sides of a mismatch ("hidden_size 576 / num_attention_heads 7 ...") or a value out of
  /// range.
  void validate() const;
};

}  // namespace pagoda

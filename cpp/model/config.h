// What a checkpoint says about its model, in one vocabulary for every family and file kind. Plain data, filled by
// model/arch/*.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace pagoda {

enum class RopeScaling : uint8_t { none, linear, llama3 };

/// Rotary position embedding: pair i of a head turns by position / (theta^(2i / rotary_dim)), scaled as told.
struct RopeConfig {
  double theta = 10000;
  int rotary_dim = 0;  ///< leading part of a head that is rotated
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;            ///< linear, llama3
  double low_freq_factor = 1;   ///< llama3
  double high_freq_factor = 4;  ///< llama3
  double original_context = 0;  ///< llama3
  std::vector<float> divisors;  ///< GGUF's rope_freqs: pair i's frequency is divided by divisors[i]; empty = none
};

struct ModelConfig {
  std::string architecture;  ///< as the checkpoint names it: "LlamaForCausalLM", "llama"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int num_layers = 0;
  int num_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int64_t max_context = 0;
  float norm_eps = 1e-6f;
  Activation activation = Activation::silu;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool out_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;                ///< RMS norm of each q and k head before the rotation
  std::vector<int> windows;            ///< [num_layers] sliding window of each layer, 0 = full attention
  bool rope_rows_interleaved = false;  ///< the file stores q and k rows in pairs (GGUF llama); the loader reorders them
  std::vector<int32_t> eos_tokens;

  /// Adds an end-of-sequence token unless it is known. Throws InvalidArgument naming `key`, as the file calls it, for a token
  /// outside the vocabulary: samplers write to its logit without another check.
  void add_eos_token(const char* key, int64_t token);

  /// Throws InvalidArgument naming both sides of a mismatch ("hidden_size 576 / num_attention_heads 7 ...") or a value out of
  /// range.
  void validate() const;
};

}  // namespace pagoda

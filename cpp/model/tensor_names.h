// How checkpoints name the tensors of a decoder.
#pragma once

#include <string>

namespace pagoda {

/// Names without their `.weight` or `.bias`; those from attn_norm on follow the layer prefix and number.
struct TensorNames {
  const char* embedding;
  const char* lm_head;
  const char* final_norm;
  const char* layer;  ///< prefix of everything below
  const char* attn_norm;
  const char* mlp_norm;
  const char* q;
  const char* k;
  const char* v;
  const char* out;
  const char* q_norm;
  const char* k_norm;
  const char* gate;
  const char* up;
  const char* down;
};

inline constexpr TensorNames kHfNames{
    .embedding = "model.embed_tokens",
    .lm_head = "lm_head",
    .final_norm = "model.norm",
    .layer = "model.layers.",
    .attn_norm = "input_layernorm",
    .mlp_norm = "post_attention_layernorm",
    .q = "self_attn.q_proj",
    .k = "self_attn.k_proj",
    .v = "self_attn.v_proj",
    .out = "self_attn.o_proj",
    .q_norm = "self_attn.q_norm",
    .k_norm = "self_attn.k_norm",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
};

inline constexpr TensorNames kGgufNames{
    .embedding = "token_embd",
    .lm_head = "output",
    .final_norm = "output_norm",
    .layer = "blk.",
    .attn_norm = "attn_norm",
    .mlp_norm = "ffn_norm",
    .q = "attn_q",
    .k = "attn_k",
    .v = "attn_v",
    .out = "attn_output",
    .q_norm = "attn_q_norm",
    .k_norm = "attn_k_norm",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .down = "ffn_down",
};

/// "model.layers.3.self_attn.q_proj"
inline std::string layer_tensor(const TensorNames& names, int layer, const char* part) {
  return names.layer + std::to_string(layer) + "." + part;
}

}  // namespace pagoda

// How a checkpoint names and arranges the tensors of a decoder. Families that follow the common form of their file kind use
// kHfNames or kGgufNames; model/arch/*.cc derive others from them.
#pragma once

#include <cstdint>
#include <string>

namespace pagoda {

/// Names without their `.weight` or `.bias` (some files have matrices without suffix: both are tried). Those from attn_norm on
/// follow the layer prefix and number. Null: the family has no such tensor, or has another one in its place.
struct TensorNames {
  const char* embedding;
  const char* positions;  ///< learned positions
  const char* lm_head;
  const char* final_norm;
  const char* layer;  ///< prefix of everything below
  const char* attn_norm;
  const char* post_attn_norm;
  const char* mlp_norm;
  const char* post_mlp_norm;
  const char* q;
  const char* k;
  const char* v;
  const char* qkv;  ///< q, k and v in one tensor, used when not null
  const char* out;
  const char* q_norm;  ///< ends in '.' when each head has a tensor of its own, numbered
  const char* k_norm;
  const char* sinks;
  const char* gate;
  const char* up;
  const char* gate_up;  ///< gate and up rows in one tensor, used when not null
  const char* down;
  const char* router;
  /// The experts' tensors. A '*' stands for the number of the expert whose tensor it is; a name without holds all experts:
  /// [experts, rows, cols], biases [experts, rows].
  const char* expert_gate;
  const char* expert_up;
  const char* expert_gate_up;  ///< used when not null
  const char* expert_down;
  const char* shared_gate;
  const char* shared_up;
  const char* shared_gate_up;  ///< used when not null
  const char* shared_down;
  const char* shared_scale;  ///< the row whose sigmoid scales the shared expert
};

inline constexpr TensorNames kHfNames{
    .embedding = "model.embed_tokens",
    .positions = nullptr,
    .lm_head = "lm_head",
    .final_norm = "model.norm",
    .layer = "model.layers.",
    .attn_norm = "input_layernorm",
    .post_attn_norm = nullptr,
    .mlp_norm = "post_attention_layernorm",
    .post_mlp_norm = nullptr,
    .q = "self_attn.q_proj",
    .k = "self_attn.k_proj",
    .v = "self_attn.v_proj",
    .qkv = nullptr,
    .out = "self_attn.o_proj",
    .q_norm = "self_attn.q_norm",
    .k_norm = "self_attn.k_norm",
    .sinks = nullptr,
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .gate_up = nullptr,
    .down = "mlp.down_proj",
    .router = "mlp.gate",
    .expert_gate = "mlp.experts.*.gate_proj",
    .expert_up = "mlp.experts.*.up_proj",
    .expert_gate_up = nullptr,
    .expert_down = "mlp.experts.*.down_proj",
    .shared_gate = "mlp.shared_expert.gate_proj",
    .shared_up = "mlp.shared_expert.up_proj",
    .shared_gate_up = nullptr,
    .shared_down = "mlp.shared_expert.down_proj",
    .shared_scale = "mlp.shared_expert_gate",
};

inline constexpr TensorNames kGgufNames{
    .embedding = "token_embd",
    .positions = "position_embd",
    .lm_head = "output",
    .final_norm = "output_norm",
    .layer = "blk.",
    .attn_norm = "attn_norm",
    .post_attn_norm = "post_attention_norm",
    .mlp_norm = "ffn_norm",
    .post_mlp_norm = "post_ffw_norm",
    .q = "attn_q",
    .k = "attn_k",
    .v = "attn_v",
    .qkv = nullptr,
    .out = "attn_output",
    .q_norm = "attn_q_norm",
    .k_norm = "attn_k_norm",
    .sinks = "attn_sinks",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .gate_up = nullptr,
    .down = "ffn_down",
    .router = "ffn_gate_inp",
    .expert_gate = "ffn_gate_exps",
    .expert_up = "ffn_up_exps",
    .expert_gate_up = nullptr,
    .expert_down = "ffn_down_exps",
    .shared_gate = "ffn_gate_shexp",
    .shared_up = "ffn_up_shexp",
    .shared_gate_up = nullptr,
    .shared_down = "ffn_down_shexp",
    .shared_scale = "ffn_gate_inp_shexp",
};

/// The order of the rows of a tensor that holds q, k and v.
enum class QkvOrder : uint8_t {
  stacked,  ///< all q rows, all k rows, all v rows
  grouped,  ///< for each KV head: its q heads, its k head, its v head
};

/// Where the stored form differs from the packed one; the loader undoes all of it.
struct TensorLayout {
  const TensorNames* names = &kHfNames;
  QkvOrder qkv_order = QkvOrder::stacked;
  bool rope_rows_interleaved = false;      ///< rotary pairs are neighbouring rows (2i, 2i + 1) instead of (i, i + half)
  bool transposed = false;                 ///< the layers' matrices are stored [in, out]
  bool experts_transposed = false;         ///< the experts' matrices are
  bool expert_gate_up_alternates = false;  ///< rows gate 0, up 0, gate 1, ... instead of all gates, all ups
  float norm_offset = 0;                   ///< added to the stored norm weights (Gemma stores weight - 1)
};

/// "model.layers.3.self_attn.q_proj"
inline std::string layer_tensor(const TensorNames& names, int layer, const char* part) {
  return names.layer + std::to_string(layer) + "." + part;
}

}  // namespace pagoda

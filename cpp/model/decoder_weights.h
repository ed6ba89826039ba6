// The weights of a decoder as the forward pass wants them. Filled by weight_builder.cc, read by decoder.cc.
#pragma once

#include <vector>

#include "backend/backend.h"

namespace pagoda {

/// A multilayer perceptron, or all experts of a layer ("[E]": E of them, one after another). Biases are null where there are
/// none.
struct MlpWeights {
  Weight up;    ///< gated: [E][2 * intermediate, hidden], gate rows then up rows; else [intermediate, hidden]
  Weight down;  ///< [E][hidden, intermediate]
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;
};

/// Weights of one layer. Matrices are [out, in]; vectors are f32 in the backend's memory. What the configuration does not have
/// is empty.
struct DecoderLayer {
  Weight qkv;  ///< [(num_heads + 2 * kv_heads) * head_dim, hidden]: q rows, k rows, v rows
  Weight out;  ///< [hidden, num_heads * head_dim]
  const float* qkv_bias = nullptr;
  const float* out_bias = nullptr;
  const float* q_norm = nullptr;  ///< by ModelConfig::qk_norm
  const float* k_norm = nullptr;
  const float* sinks = nullptr;  ///< [num_heads]
  Norm attn_norm, post_attn_norm, mlp_norm, post_mlp_norm;

  MlpWeights mlp;      ///< of a dense layer
  MlpWeights experts;  ///< of a sparse layer
  Weight router;       ///< [E, hidden]
  const float* router_bias = nullptr;
  MlpWeights shared;    ///< the expert that every token passes
  Weight shared_scale;  ///< [1, hidden]
};

struct DecoderWeights {
  Weight embedding;  ///< [vocab, hidden]
  Weight positions;  ///< [max_context, hidden], learned positions
  Weight lm_head;    ///< [vocab, hidden]; the embedding itself when tied
  const float* lm_head_bias = nullptr;
  Norm final_norm;
  std::vector<const float*> cos_sin;  ///< [1 + more_ropes] tables of [max positions, rotary_dim]
  std::vector<DecoderLayer> layers;
  std::vector<Buffer> buffers;  ///< what the vectors point into
  size_t bytes = 0;             ///< of everything above in the backend's memory
  int64_t num_parameters = 0;   ///< values of everything above but the rotary tables
};

}  // namespace pagoda

// The decoder: one forward pass for every family, with structural switches. Owns the packed weights; the engine calls
// forward().
#pragma once

#include <memory>
#include <vector>

#include "model/config.h"
#include "model/model.h"
#include "parallel/communicator.h"

namespace pagoda {

/// Weights of one layer. Matrices are [out, in]; vectors are f32 in the backend's memory, null where the family has none.
struct DecoderLayer {
  Weight qkv;                        ///< [(num_heads + 2 * kv_heads) * head_dim, hidden]: q rows, k rows, v rows
  Weight out;                        ///< [hidden, num_heads * head_dim]
  Weight gate_up;                    ///< [2 * intermediate, hidden]: gate rows, up rows
  Weight down;                       ///< [hidden, intermediate]
  const float* attn_norm = nullptr;  ///< [hidden]
  const float* mlp_norm = nullptr;   ///< [hidden]
  const float* q_norm = nullptr;     ///< [head_dim]
  const float* k_norm = nullptr;     ///< [head_dim]
  const float* qkv_bias = nullptr;
  const float* out_bias = nullptr;
  const float* gate_up_bias = nullptr;
  const float* down_bias = nullptr;
};

struct DecoderWeights {
  Weight embedding;                   ///< [vocab, hidden]
  Weight lm_head;                     ///< [vocab, hidden]; the embedding itself when tied
  const float* final_norm = nullptr;  ///< [hidden]
  const float* cos_sin = nullptr;     ///< [max positions, rotary_dim]
  std::vector<DecoderLayer> layers;
  std::vector<Buffer> buffers;  ///< what the vectors point into
  size_t bytes = 0;             ///< of everything above in the backend's memory
};

class Decoder final : public Model {
 public:
  Decoder(ModelConfig config, DecoderWeights weights);

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t max_context() const override { return config_.max_context; }
  KvShape kv_shape() const override { return {config_.num_layers, config_.kv_heads, config_.head_dim}; }
  Tensor forward(const Batch& batch, KvCache& kv, Ops& ops) override;

  const ModelConfig& config() const { return config_; }
  const DecoderWeights& weights() const { return weights_; }

 private:
  /// x = attention output projection of `h`.
  void attention(int layer, const Tensor& h, const Tensor& x, const Batch& batch, KvCache& kv, Ops& ops);
  /// x = MLP output of `h`.
  void mlp(int layer, const Tensor& h, const Tensor& x, Ops& ops);

  ModelConfig config_;
  DecoderWeights weights_;
  SingleRank group_;
};

}  // namespace pagoda

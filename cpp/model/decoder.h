// The decoder: one forward pass for every family, with structural switches. Owns the packed weights; the engine calls
// forward().
#pragma once

#include "model/config.h"
#include "model/decoder_weights.h"
#include "model/model.h"
#include "parallel/communicator.h"

namespace pagoda {

class Decoder final : public Model {
 public:
  Decoder(ModelConfig config, DecoderWeights weights);

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t hidden_size() const override { return config_.hidden_size; }
  int64_t max_context() const override { return config_.max_context; }
  KvShape kv_shape() const override { return {config_.num_layers, config_.kv_heads, config_.head_dim}; }
  using Model::forward;
  Tensor forward(const Batch& batch, KvCache& kv, Ops& ops, Tensor* hidden) override;

  const ModelConfig& config() const { return config_; }
  const DecoderWeights& weights() const { return weights_; }

 private:
  /// What goes from layer to layer, n rows: the residual [n, H], what the block before left to be added to it, x [n, H], and
  /// the batch whose tokens they are.
  struct Rows {
    Tensor residual, x;
    Batch batch;
  };

  /// Whether the last layer goes on with the rows that need logits alone, once all keys and values are stored: where they are
  /// at most half of all, or the copies would take more memory than they save (memory_plan.cc measures both).
  static bool selects_rows(const Batch& batch, const Ops& ops);
  /// Uninitialised, R rows.
  Rows room_for_logit_rows(const Batch& batch, Ops& ops) const;
  /// From `from` to `to`, which is the same or room for its logit rows.
  void run_layer(int layer, const Rows& from, const Rows& to, KvCache& kv, Ops& ops);
  /// [T, H]: the tokens' embeddings, with what the family adds to them.
  Tensor embed(const Batch& batch, Ops& ops);
  /// A block's input. `pending`: what the block before left in `x` is added to the residual first.
  Tensor block_input(const Tensor& residual, const Tensor& x, bool pending, bool normed, const Norm& norm, Ops& ops);
  /// rows.x = the output projection of the attention of q.
  void attention(int layer, const Tensor& q, const Rows& rows, KvCache& kv, Ops& ops);
  /// q of the fused projection, normed and rotated; k and v are stored.
  Tensor store_and_rotate(int layer, const Tensor& qkv, const Batch& batch, KvCache& kv, Ops& ops);
  /// x = feed-forward output of `h`: the MLP's, or the chosen experts'.
  void feed_forward(int layer, const Tensor& h, const Tensor& x, Ops& ops);
  void mlp(const MlpWeights& w, const Tensor& h, const Tensor& x, Ops& ops);
  void experts(const DecoderLayer& w, const Tensor& h, const Tensor& x, Ops& ops);
  /// [R, vocab] f32 from the normed last hidden states [R, H].
  Tensor logits(const Tensor& h, Ops& ops);

  ModelConfig config_;
  DecoderWeights weights_;
  SingleRank group_;
};

}  // namespace pagoda

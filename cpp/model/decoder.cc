// THE forward pass. Shapes: T tokens, H hidden, R rows that need logits.
// Per token and layer: 2 * (qkv + out + gate_up + down) elements of multiply-add, plus attention over the context.
#include "model/decoder.h"

#include <cmath>
#include <utility>

#include "core/check.h"

namespace pagoda {

Decoder::Decoder(ModelConfig config, DecoderWeights weights) : config_(std::move(config)), weights_(std::move(weights)) {
  ensure(weights_.layers.size() == static_cast<size_t>(config_.num_layers), "decoder has ", weights_.layers.size(),
         " layers of weights, wants ", config_.num_layers);
}

Tensor Decoder::forward(const Batch& batch, KvCache& kv, Ops& ops) {
  const Tensor residual = ops.embed(weights_.embedding, batch.token_ids, batch.num_tokens);  // [T, H]
  const Tensor x = ops.allocate(residual.dtype, {batch.num_tokens, config_.hidden_size});    // [T, H]
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const Arena::Scope scope(ops.arena());
    const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
    const Norm norm{NormKind::rms, w.attn_norm, nullptr, config_.norm_eps};
    const Tensor h = layer == 0 ? ops.norm(residual, norm) : ops.add_norm(residual, x, 1, norm);
    attention(layer, h, x, batch, kv, ops);
    mlp(layer, ops.add_norm(residual, x, 1, {NormKind::rms, w.mlp_norm, nullptr, config_.norm_eps}), x, ops);
  }
  const Tensor last_residual = ops.gather_rows(residual, batch.logit_rows, batch.num_logit_rows);  // [R, H]
  const Tensor last_x = ops.gather_rows(x, batch.logit_rows, batch.num_logit_rows);                // [R, H]
  const Tensor h = ops.add_norm(last_residual, last_x, 1, {NormKind::rms, weights_.final_norm, nullptr, config_.norm_eps});
  return ops.logits(h, weights_.lm_head);  // [R, vocab]
}

void Decoder::attention(int layer, const Tensor& h, const Tensor& x, const Batch& batch, KvCache& kv, Ops& ops) {
  const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
  const RopeStoreArgs rope{.num_heads = config_.num_heads,
                           .kv_heads = config_.kv_heads,
                           .head_dim = config_.head_dim,
                           .rotary_dim = config_.rope.rotary_dim,
                           .cos_sin = weights_.cos_sin,
                           .norm_kind = NormKind::rms,
                           .q_norm = w.q_norm,
                           .k_norm = w.k_norm,
                           .norm_stride = 0,
                           .norm_eps = config_.norm_eps};
  const AttentionArgs attend{.num_heads = config_.num_heads,
                             .kv_heads = config_.kv_heads,
                             .head_dim = config_.head_dim,
                             .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                             .window = config_.windows[static_cast<size_t>(layer)],
                             .soft_cap = 0,
                             .sinks = nullptr};
  const Tensor q = ops.rope_store_kv(ops.linear(h, w.qkv, w.qkv_bias), rope, kv.layer(layer), batch);
  ops.linear_into(x, ops.paged_attention(q, attend, kv.layer(layer), batch), w.out, w.out_bias);
  group_.all_reduce(x);
}

void Decoder::mlp(int layer, const Tensor& h, const Tensor& x, Ops& ops) {
  const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
  ops.linear_into(x, ops.gated_activation(ops.linear(h, w.gate_up, w.gate_up_bias), config_.activation), w.down, w.down_bias);
  group_.all_reduce(x);
}

}  // namespace pagoda

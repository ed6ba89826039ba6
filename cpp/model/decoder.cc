// THE forward pass. Shapes: T tokens, H hidden, I intermediate, E experts, R rows that need logits.
// Per token and layer: 2 * (qkv + out + up + down) elements of multiply-add (of the chosen experts only), plus attention over
// the context.
#include "model/decoder.h"

#include <cmath>
#include <utility>

#include "core/check.h"

namespace pagoda {

Decoder::Decoder(ModelConfig config, DecoderWeights weights) : config_(std::move(config)), weights_(std::move(weights)) {
  ensure(weights_.layers.size() == static_cast<size_t>(config_.num_layers), "decoder has ", weights_.layers.size(),
         " layers of weights, wants ", config_.num_layers);
}

Tensor Decoder::forward(const Batch& batch, KvCache& kv, Ops& ops, Tensor* hidden) {
  const Tensor embedded = embed(batch, ops);
  Rows rows{embedded, ops.allocate(embedded.dtype, embedded.shape), batch};
  const bool selects = !hidden && selects_rows(batch, ops);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const Rows from = rows;
    if (selects && layer + 1 == config_.num_layers) rows = room_for_logit_rows(batch, ops);
    run_layer(layer, from, rows, kv, ops);
  }
  if (hidden) {
    *hidden = ops.add_norm(rows.residual, rows.x, config_.residual_scale, weights_.final_norm);  // [T, H]
    return logits(ops.gather_rows(*hidden, batch.logit_rows, batch.num_logit_rows), ops);
  }
  if (!selects) {
    rows.residual = ops.gather_rows(rows.residual, batch.logit_rows, batch.num_logit_rows);  // [R, H]
    rows.x = ops.gather_rows(rows.x, batch.logit_rows, batch.num_logit_rows);                // [R, H]
  }
  return logits(ops.add_norm(rows.residual, rows.x, config_.residual_scale, weights_.final_norm), ops);
}

bool Decoder::selects_rows(const Batch& batch, const Ops& ops) {
  return ops.traits().attends_by_position && 2 * batch.num_logit_rows <= batch.num_tokens;
}

Decoder::Rows Decoder::room_for_logit_rows(const Batch& batch, Ops& ops) const {
  const Shape shape{batch.num_logit_rows, config_.hidden_size};
  const DType dtype = ops.traits().activation_dtype;
  return {ops.allocate(dtype, shape), ops.allocate(dtype, shape), batch.logits_only()};
}

void Decoder::run_layer(int layer, const Rows& from, const Rows& to, KvCache& kv, Ops& ops) {
  const Arena::Scope scope(ops.arena());
  const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
  Tensor h = block_input(from.residual, from.x, layer > 0, config_.attn_norm, w.attn_norm, ops);
  Tensor q = store_and_rotate(layer, ops.linear(h, w.qkv, w.qkv_bias), from.batch, kv, ops);
  if (to.batch.num_tokens < from.batch.num_tokens) {
    if (to.batch.num_tokens == 0) return;
    const int32_t* chosen = from.batch.logit_rows;
    ops.gather_rows_into(to.residual, from.residual, chosen);
    q = ops.gather_rows(q, chosen, to.batch.num_tokens);
    if (config_.parallel_block && !config_.mlp_norm) h = ops.gather_rows(h, chosen, to.batch.num_tokens);
  }
  attention(layer, q, to, kv, ops);
  if (config_.post_attn_norm) ops.norm_in_place(to.x, w.post_attn_norm);
  if (config_.parallel_block) {
    const Tensor mlp_out = ops.allocate(to.x.dtype, to.x.shape);
    feed_forward(layer, config_.mlp_norm ? ops.norm(to.residual, w.mlp_norm) : h, mlp_out, ops);
    ops.add(to.x, mlp_out, 1);
  } else {
    feed_forward(layer, block_input(to.residual, to.x, true, config_.mlp_norm, w.mlp_norm, ops), to.x, ops);
    if (config_.post_mlp_norm) ops.norm_in_place(to.x, w.post_mlp_norm);
  }
}

Tensor Decoder::embed(const Batch& batch, Ops& ops) {
  const Tensor embedded = ops.embed(weights_.embedding, batch.token_ids, batch.num_tokens);
  if (config_.embedding_scale != 1) ops.scale(embedded, config_.embedding_scale);
  if (config_.learned_positions) ops.add(embedded, ops.embed(weights_.positions, batch.positions, batch.num_tokens), 1);
  return embedded;
}

Tensor Decoder::block_input(const Tensor& residual, const Tensor& x, bool pending, bool normed, const Norm& norm, Ops& ops) {
  if (normed) return pending ? ops.add_norm(residual, x, config_.residual_scale, norm) : ops.norm(residual, norm);
  if (pending) ops.add(residual, x, config_.residual_scale);
  return residual;
}

void Decoder::attention(int layer, const Tensor& q, const Rows& rows, KvCache& kv, Ops& ops) {
  const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
  const float scale =
      config_.attention_scale != 0 ? config_.attention_scale : 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  const AttentionArgs args{.num_heads = config_.num_heads,
                           .kv_heads = config_.kv_heads,
                           .head_dim = config_.head_dim,
                           .scale = scale,
                           .window = config_.windows[static_cast<size_t>(layer)],
                           .soft_cap = config_.attention_soft_cap,
                           .sinks = w.sinks};
  ops.linear_into(rows.x, ops.paged_attention(q, args, kv.layer(layer), rows.batch), w.out, w.out_bias);
  group_.all_reduce(rows.x);
}

Tensor Decoder::store_and_rotate(int layer, const Tensor& qkv, const Batch& batch, KvCache& kv, Ops& ops) {
  const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t q_end = int64_t{config_.num_heads} * config_.head_dim;
  const int64_t k_end = q_end + int64_t{config_.kv_heads} * config_.head_dim;
  const bool in_rows = config_.qk_norm == QkNorm::row;
  if (in_rows) {
    ops.norm_in_place(qkv.columns(0, q_end), {config_.qk_norm_kind, w.q_norm, nullptr, config_.norm_eps});
    ops.norm_in_place(qkv.columns(q_end, k_end), {config_.qk_norm_kind, w.k_norm, nullptr, config_.norm_eps});
  }
  const RopeConfig* rope = config_.layer_rope(layer);
  const RopeStoreArgs args{.num_heads = config_.num_heads,
                           .kv_heads = config_.kv_heads,
                           .head_dim = config_.head_dim,
                           .rotary_dim = rope ? rope->rotary_dim : 0,
                           .cos_sin = rope ? weights_.cos_sin[config_.layer_rope_index(layer)] : nullptr,
                           .norm_kind = config_.qk_norm_kind,
                           .q_norm = in_rows ? nullptr : w.q_norm,
                           .k_norm = in_rows ? nullptr : w.k_norm,
                           .norm_stride = config_.qk_norm == QkNorm::own_head ? config_.head_dim : 0,
                           .norm_eps = config_.norm_eps};
  return ops.rope_store_kv(qkv, args, kv.layer(layer), batch);
}

void Decoder::feed_forward(int layer, const Tensor& h, const Tensor& x, Ops& ops) {
  const DecoderLayer& w = weights_.layers[static_cast<size_t>(layer)];
  if (config_.is_sparse(layer)) {
    experts(w, h, x, ops);
  } else {
    mlp(w.mlp, h, x, ops);
  }
  group_.all_reduce(x);
}

void Decoder::mlp(const MlpWeights& w, const Tensor& h, const Tensor& x, Ops& ops) {
  if (config_.gated_mlp) return ops.gated_mlp_into(x, h, w.up, w.up_bias, config_.activation, w.down, w.down_bias);
  const Tensor up = ops.linear(h, w.up, w.up_bias);  // [T, I]
  ops.activation(up, config_.activation);
  ops.linear_into(x, up, w.down, w.down_bias);
}

void Decoder::experts(const DecoderLayer& w, const Tensor& h, const Tensor& x, Ops& ops) {
  const Routing routing = ops.route(ops.logits(h, w.router, w.router_bias), config_.moe.num_experts, config_.moe.route);
  const Tensor up = ops.grouped_linear(h, w.experts.up, w.experts.up_bias, routing, ExpertInput::by_token);  // [T * k, 2I]
  const Tensor gated = ops.gated_activation(up, config_.activation);                                         // [T * k, I]
  const Tensor down = ops.grouped_linear(gated, w.experts.down, w.experts.down_bias, routing, ExpertInput::by_place);
  ops.combine_experts(x, down, routing);
  if (config_.moe.shared_intermediate_size == 0) return;
  const Tensor shared = ops.allocate(x.dtype, x.shape);
  mlp(w.shared, h, shared, ops);
  if (config_.moe.shared_gate) ops.sigmoid_scale(shared, ops.linear(h, w.shared_scale));
  ops.add(x, shared, 1);
}

Tensor Decoder::logits(const Tensor& h, Ops& ops) {
  const Tensor logits = ops.logits(h, weights_.lm_head, weights_.lm_head_bias);
  if (config_.logit_scale != 1 || config_.logit_soft_cap != 0) ops.scale(logits, config_.logit_scale, config_.logit_soft_cap);
  return logits;
}

}  // namespace pagoda

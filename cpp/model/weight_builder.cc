// Building in two passes over the same description: one counts bytes, one packs. Both see the same parts, so the plan is exact.
#include "model/weight_builder.h"

#include <utility>
#include <vector>

#include "model/decoder_parts.h"
#include "model/rope_table.h"

namespace pagoda {
namespace {

/// Walks the checkpoint in a fixed order and turns tensors into weights. Without a backend it only measures.
class WeightBuilder {
 public:
  WeightBuilder(const WeightPlan& plan, const BackendTraits& traits, Backend* backend)
      : plan_(plan),
        config_(plan.config),
        parts_({plan.config, plan.source, plan.quantisation, plan.weight_format, backend != nullptr}),
        traits_(traits),
        backend_(backend) {}

  DecoderWeights build() {
    weights_.embedding = matrix({{MatrixRole::embedding}});
    if (config_.learned_positions) weights_.positions = matrix({{MatrixRole::positions}});
    for (int layer = 0; layer < config_.num_layers; ++layer) weights_.layers.push_back(build_layer(layer));
    weights_.final_norm = norm(NormRole::final, 0);
    weights_.lm_head = config_.tied_embeddings ? weights_.embedding : matrix({{MatrixRole::lm_head}});
    if (config_.lm_head_bias) weights_.lm_head_bias = bias({{MatrixRole::lm_head}});
    weights_.cos_sin.push_back(rope_table(config_.rope));
    for (const RopeConfig& rope : config_.more_ropes) weights_.cos_sin.push_back(rope_table(rope));
    return std::move(weights_);
  }

  /// Calls `progress` after each of `total` matrices.
  void report(const LoadProgress& progress, int64_t total) { progress_ = &progress, total_ = total; }
  int64_t num_matrices() const { return num_matrices_; }

 private:
  DecoderLayer build_layer(int layer) {
    DecoderLayer w;
    build_attention(w, layer);
    if (config_.attn_norm) w.attn_norm = norm(NormRole::attn, layer);
    if (config_.post_attn_norm) w.post_attn_norm = norm(NormRole::post_attn, layer);
    if (config_.mlp_norm) w.mlp_norm = norm(NormRole::mlp, layer);
    if (config_.post_mlp_norm) w.post_mlp_norm = norm(NormRole::post_mlp, layer);
    if (config_.is_sparse(layer)) {
      build_experts(w, layer);
    } else {
      w.mlp = mlp({MatrixRole::gate, layer}, {MatrixRole::up, layer}, {MatrixRole::down, layer});
    }
    return w;
  }

  void build_attention(DecoderLayer& w, int layer) {
    const std::vector<MatrixId> qkv{{MatrixRole::q, layer}, {MatrixRole::k, layer}, {MatrixRole::v, layer}};
    w.qkv = matrix(qkv);
    w.out = matrix({{MatrixRole::out, layer}});
    if (config_.qkv_bias) w.qkv_bias = bias(qkv);
    if (config_.out_bias) w.out_bias = bias({{MatrixRole::out, layer}});
    if (config_.qk_norm != QkNorm::none) {
      w.q_norm = vector(parts_.q_norm(layer));
      w.k_norm = vector(parts_.k_norm(layer));
    }
    if (config_.attention_sinks) w.sinks = vector(parts_.sinks(layer));
  }

  MlpWeights mlp(MatrixId gate, MatrixId up, MatrixId down) {
    const std::vector<MatrixId> inputs = config_.gated_mlp ? std::vector{gate, up} : std::vector{up};
    MlpWeights w;
    w.up = matrix(inputs);
    w.down = matrix({down});
    if (config_.mlp_bias) w.up_bias = bias(inputs), w.down_bias = bias({down});
    return w;
  }

  void build_experts(DecoderLayer& w, int layer) {
    const MoeConfig& moe = config_.moe;
    w.router = matrix({{MatrixRole::router, layer}});
    if (moe.router_bias) w.router_bias = bias({{MatrixRole::router, layer}});
    std::vector<MatrixId> up, down;
    for (int expert = 0; expert < moe.num_experts; ++expert) {
      up.push_back({MatrixRole::expert_gate, layer, expert});
      up.push_back({MatrixRole::expert_up, layer, expert});
      down.push_back({MatrixRole::expert_down, layer, expert});
    }
    w.experts.up = matrix(up);
    w.experts.down = matrix(down);
    w.experts.up.num_groups = w.experts.down.num_groups = moe.num_experts;
    if (moe.expert_bias) w.experts.up_bias = bias(up), w.experts.down_bias = bias(down);
    if (moe.shared_intermediate_size == 0) return;
    w.shared = mlp({MatrixRole::shared_gate, layer}, {MatrixRole::shared_up, layer}, {MatrixRole::shared_down, layer});
    if (moe.shared_gate) w.shared_scale = matrix({{MatrixRole::shared_scale, layer}});
  }

  /// The matrices stacked in one weight.
  Weight matrix(const std::vector<MatrixId>& ids) {
    std::vector<WeightPart> parts;
    for (const MatrixId& id : ids) parts.push_back(parts_.matrix(id));
    Weight weight;
    ++num_matrices_;
    if (backend_) {
      weight = backend_->pack(parts);
      if (progress_ && *progress_) (*progress_)(num_matrices_, total_);
    } else {
      weight.cols = parts[0].cols;
      for (const WeightPart& part : parts) {
        weight.rows += part.rows;
        weight.part_formats.push_back(part.format);
      }
      weight.bytes = traits_.packed_bytes(parts);
    }
    weights_.bytes += weight.bytes;
    weights_.num_parameters += weight.rows * weight.cols;
    return weight;
  }

  const float* bias(const std::vector<MatrixId>& ids) {
    std::vector<float> values;
    for (const MatrixId& id : ids) {
      const std::vector<float> own = parts_.bias(id);
      values.insert(values.end(), own.begin(), own.end());
    }
    return vector(values);
  }

  Norm norm(NormRole role, int layer) {
    const float* weight = vector(parts_.norm_weight(role, layer));
    const float* shift = config_.norm_bias ? vector(parts_.norm_bias(role, layer)) : nullptr;
    return {config_.norm, weight, shift, config_.norm_eps};
  }

  const float* vector(const std::vector<float>& values) {
    weights_.num_parameters += static_cast<int64_t>(values.size());
    return upload(values);
  }

  const float* rope_table(const RopeConfig& rope) {
    if (config_.learned_positions) return nullptr;
    if (backend_) return upload(make_rope_table(rope, plan_.num_positions));
    rope_frequencies(rope, plan_.num_positions);  // for its checks
    weights_.bytes += allocated_bytes(
        traits_, static_cast<size_t>(plan_.num_positions) * static_cast<size_t>(rope.rotary_dim) * sizeof(float));
    return nullptr;
  }

  const float* upload(const std::vector<float>& values) {
    const size_t bytes = values.size() * sizeof(float);
    weights_.bytes += allocated_bytes(traits_, bytes);
    if (!backend_) return nullptr;
    weights_.buffers.push_back(backend_->allocate(bytes));
    backend_->upload(weights_.buffers.back().get(), values.data(), bytes);
    return static_cast<const float*>(weights_.buffers.back().get());
  }

  const WeightPlan& plan_;
  const ModelConfig& config_;
  const DecoderParts parts_;
  const BackendTraits& traits_;
  Backend* backend_;
  const LoadProgress* progress_ = nullptr;
  int64_t total_ = 0;
  int64_t num_matrices_ = 0;
  DecoderWeights weights_;
};

}  // namespace

DecoderWeights plan_weights(const WeightPlan& plan, const BackendTraits& traits) {
  return WeightBuilder(plan, traits, nullptr).build();
}

DecoderWeights pack_weights(const WeightPlan& plan, Backend& backend, const LoadProgress& progress) {
  WeightBuilder measured(plan, backend.traits(), nullptr);
  measured.build();
  WeightBuilder builder(plan, backend.traits(), &backend);
  builder.report(progress, measured.num_matrices());
  return builder.build();
}

}  // namespace pagoda

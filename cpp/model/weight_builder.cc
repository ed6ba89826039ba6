// Building in two passes over the same description: one counts bytes, one packs. Both see the same parts, so the plan is exact.
#include "model/weight_builder.h"

#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "model/rope_table.h"
#include "model/stored_weights.h"

namespace pagoda {
namespace {

/// Rows of heads stored as interleaved pairs (0, 1), (2, 3), ... within the first `rotary_dim` of `head_dim`, put in half-split
/// order (0, 2, 4, ..., 1, 3, 5, ...), which the rotation wants.
std::vector<int32_t> half_split_order(int num_heads, int head_dim, int rotary_dim) {
  std::vector<int32_t> order;
  for (int head = 0; head < num_heads; ++head) {
    for (int i = 0; i < head_dim; ++i) {
      const int half = rotary_dim / 2;
      const int from = i >= rotary_dim ? i : i < half ? 2 * i : 2 * (i - half) + 1;
      order.push_back(head * head_dim + from);
    }
  }
  return order;
}

std::vector<int32_t> counting(int64_t begin, int64_t count) {
  std::vector<int32_t> order(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) order[static_cast<size_t>(i)] = static_cast<int32_t>(begin + i);
  return order;
}

/// Where the rows of q, k and v come from.
struct QkvRows {
  std::vector<int32_t> q, k, v;       ///< in a tensor that holds all three
  std::vector<int32_t> own_q, own_k;  ///< in a tensor of its own; empty: as stored
};

QkvRows qkv_rows(const ModelConfig& config) {
  const int head_dim = config.head_dim, group = config.num_heads / config.kv_heads;
  const int64_t q_rows = int64_t{config.num_heads} * head_dim, kv_rows = int64_t{config.kv_heads} * head_dim;
  QkvRows rows{counting(0, q_rows), counting(q_rows, kv_rows), counting(q_rows + kv_rows, kv_rows), {}, {}};
  if (config.layout.qkv_order == QkvOrder::grouped) {
    const auto place = [&](int kv_head, int member, int i) { return (kv_head * (group + 2) + member) * head_dim + i; };
    for (int head = 0; head < config.num_heads; ++head) {
      for (int i = 0; i < head_dim; ++i)
        rows.q[static_cast<size_t>(head * head_dim + i)] = place(head / group, head % group, i);
    }
    for (int head = 0; head < config.kv_heads; ++head) {
      for (int i = 0; i < head_dim; ++i) {
        rows.k[static_cast<size_t>(head * head_dim + i)] = place(head, group, i);
        rows.v[static_cast<size_t>(head * head_dim + i)] = place(head, group + 1, i);
      }
    }
  }
  if (config.layout.rope_rows_interleaved) {
    rows.own_q = half_split_order(config.num_heads, head_dim, config.rope.rotary_dim);
    rows.own_k = half_split_order(config.kv_heads, head_dim, config.rope.rotary_dim);
    for (auto [all, own] : {std::pair{&rows.q, &rows.own_q}, std::pair{&rows.k, &rows.own_k}}) {
      std::vector<int32_t> ordered;
      for (const int32_t row : *own) ordered.push_back((*all)[static_cast<size_t>(row)]);
      *all = std::move(ordered);
    }
  }
  return rows;
}

/// Gate rows and up rows of a tensor in which they alternate.
std::vector<int32_t> alternating_order(int64_t intermediate) {
  std::vector<int32_t> order;
  for (int64_t part = 0; part < 2; ++part) {
    for (int64_t i = 0; i < intermediate; ++i) order.push_back(static_cast<int32_t>(2 * i + part));
  }
  return order;
}

/// Whether each expert has a tensor of its own: see TensorNames.
bool is_numbered(const std::string& name) { return name.find('*') != std::string::npos; }

std::string numbered(std::string name, int expert) { return name.replace(name.find('*'), 1, std::to_string(expert)); }

/// Walks the checkpoint in a fixed order and turns tensors into weights. Without a backend it only measures.
class WeightBuilder {
 public:
  WeightBuilder(const WeightPlan& plan, const BackendTraits& traits, Backend* backend)
      : plan_(plan),
        config_(plan.config),
        names_(*plan.config.layout.names),
        stored_(plan.source, plan.quantisation),
        traits_(traits),
        backend_(backend),
        rows_(qkv_rows(plan.config)) {}

  DecoderWeights build() {
    weights_.embedding = matrix({end_matrix(names_.embedding)});
    if (config_.learned_positions) {
      weights_.positions = matrix({stored_.matrix({names_.positions, config_.max_context, config_.hidden_size})});
    }
    for (int layer = 0; layer < config_.num_layers; ++layer) weights_.layers.push_back(build_layer(layer));
    weights_.final_norm = norm(names_.final_norm);
    weights_.lm_head = config_.tied_embeddings ? weights_.embedding : matrix({end_matrix(names_.lm_head)});
    if (config_.lm_head_bias) weights_.lm_head_bias = vector({bias(names_.lm_head, config_.vocab_size)});
    weights_.cos_sin.push_back(rope_table(config_.rope));
    for (const RopeConfig& rope : config_.more_ropes) weights_.cos_sin.push_back(rope_table(rope));
    return std::move(weights_);
  }

  /// Calls `progress` after each of `total` matrices.
  void report(const LoadProgress& progress, int64_t total) { progress_ = &progress, total_ = total; }
  int64_t num_matrices() const { return num_matrices_; }

 private:
  DecoderLayer build_layer(int layer) {
    const auto name = [&](const char* part) { return layer_tensor(names_, layer, part); };
    DecoderLayer w;
    build_attention(w, layer);
    if (config_.attn_norm) w.attn_norm = norm(name(names_.attn_norm));
    if (config_.post_attn_norm) w.post_attn_norm = norm(name(names_.post_attn_norm));
    if (config_.mlp_norm) w.mlp_norm = norm(name(names_.mlp_norm));
    if (config_.post_mlp_norm) w.post_mlp_norm = norm(name(names_.post_mlp_norm));
    if (config_.is_sparse(layer)) {
      build_experts(w, layer);
    } else {
      w.mlp = dense_mlp(layer, {names_.gate, names_.up, names_.gate_up, names_.down}, config_.intermediate_size);
    }
    return w;
  }

  void build_attention(DecoderLayer& w, int layer) {
    const auto name = [&](const char* part) { return layer_tensor(names_, layer, part); };
    const int64_t hidden = config_.hidden_size;
    const int64_t q_rows = int64_t{config_.num_heads} * config_.head_dim,
                  kv_rows = int64_t{config_.kv_heads} * config_.head_dim;
    if (names_.qkv) {
      const WeightPart all = linear_part(name(names_.qkv), q_rows + 2 * kv_rows, hidden);
      w.qkv = matrix({pick_rows(all, rows_.q), pick_rows(all, rows_.k), pick_rows(all, rows_.v)});
    } else {
      w.qkv = matrix({ordered(linear_part(name(names_.q), q_rows, hidden), rows_.own_q),
                      ordered(linear_part(name(names_.k), kv_rows, hidden), rows_.own_k),
                      linear_part(name(names_.v), kv_rows, hidden)});
    }
    w.out = matrix({linear_part(name(names_.out), hidden, q_rows)});
    if (config_.qkv_bias && names_.qkv) {
      const std::vector<float> all = bias(name(names_.qkv), q_rows + 2 * kv_rows);
      w.qkv_bias = vector({picked(all, rows_.q), picked(all, rows_.k), picked(all, rows_.v)});
    } else if (config_.qkv_bias) {
      w.qkv_bias = vector({picked(bias(name(names_.q), q_rows), rows_.own_q),
                           picked(bias(name(names_.k), kv_rows), rows_.own_k), bias(name(names_.v), kv_rows)});
    }
    if (config_.out_bias) w.out_bias = vector({bias(name(names_.out), hidden)});
    if (config_.qk_norm != QkNorm::none) {
      w.q_norm = head_norm(name(names_.q_norm), config_.num_heads, rows_.own_q);
      w.k_norm = head_norm(name(names_.k_norm), config_.kv_heads, rows_.own_k);
    }
    if (config_.attention_sinks) {
      const std::string sinks = stored_.weight_name(name(names_.sinks));
      w.sinks = vector({stored_.vector(sinks, config_.num_heads, backend_)});
    }
  }

  struct MlpNames {
    const char *gate, *up, *gate_up, *down;
  };

  MlpWeights dense_mlp(int layer, const MlpNames& names, int64_t intermediate) {
    const auto name = [&](const char* part) { return layer_tensor(names_, layer, part); };
    const int64_t hidden = config_.hidden_size;
    MlpWeights w;
    if (names.gate_up) {
      w.up = matrix({linear_part(name(names.gate_up), 2 * intermediate, hidden)});
    } else if (config_.gated_mlp) {
      w.up = matrix({linear_part(name(names.gate), intermediate, hidden), linear_part(name(names.up), intermediate, hidden)});
    } else {
      w.up = matrix({linear_part(name(names.up), intermediate, hidden)});
    }
    w.down = matrix({linear_part(name(names.down), hidden, intermediate)});
    if (!config_.mlp_bias) return w;
    if (names.gate_up) {
      w.up_bias = vector({bias(name(names.gate_up), 2 * intermediate)});
    } else if (config_.gated_mlp) {
      w.up_bias = vector({bias(name(names.gate), intermediate), bias(name(names.up), intermediate)});
    } else {
      w.up_bias = vector({bias(name(names.up), intermediate)});
    }
    w.down_bias = vector({bias(name(names.down), hidden)});
    return w;
  }

  void build_experts(DecoderLayer& w, int layer) {
    const MoeConfig& moe = config_.moe;
    const std::string router = layer_tensor(names_, layer, names_.router);
    w.router = matrix({stored_.matrix({router, moe.num_experts, config_.hidden_size})});
    if (moe.router_bias) w.router_bias = vector({bias(router, moe.num_experts)});
    std::vector<WeightPart> up, down;
    std::vector<std::vector<float>> up_bias, down_bias;
    for (int e = 0; e < moe.num_experts; ++e) {
      expert_up(layer, e, up, up_bias);
      down.push_back(expert_part(layer, e, names_.expert_down, config_.hidden_size, moe.intermediate_size));
      if (moe.expert_bias) down_bias.push_back(expert_bias(layer, e, names_.expert_down, config_.hidden_size));
    }
    w.experts.up = matrix(up);
    w.experts.down = matrix(down);
    w.experts.up.num_groups = w.experts.down.num_groups = moe.num_experts;
    if (moe.expert_bias) w.experts.up_bias = vector(up_bias), w.experts.down_bias = vector(down_bias);
    if (moe.shared_intermediate_size == 0) return;
    w.shared = dense_mlp(layer, {names_.shared_gate, names_.shared_up, names_.shared_gate_up, names_.shared_down},
                         moe.shared_intermediate_size);
    if (moe.shared_gate) w.shared_scale = matrix({shared_scale(layer)});
  }

  /// Appends the gate and up parts of one expert, and their biases.
  void expert_up(int layer, int e, std::vector<WeightPart>& parts, std::vector<std::vector<float>>& biases) {
    const int64_t intermediate = config_.moe.intermediate_size, hidden = config_.hidden_size;
    if (!names_.expert_gate_up) {
      for (const char* part : {names_.expert_gate, names_.expert_up}) {
        parts.push_back(expert_part(layer, e, part, intermediate, hidden));
        if (config_.moe.expert_bias) biases.push_back(expert_bias(layer, e, part, intermediate));
      }
      return;
    }
    const std::vector<int32_t> order =
        config_.layout.expert_gate_up_alternates ? alternating_order(intermediate) : counting(0, 2 * intermediate);
    const WeightPart both = expert_part(layer, e, names_.expert_gate_up, 2 * intermediate, hidden);
    parts.push_back(slice_rows(pick_rows(both, order), 0, intermediate));
    parts.push_back(slice_rows(pick_rows(both, order), intermediate, intermediate));
    if (config_.moe.expert_bias) {
      biases.push_back(picked(expert_bias(layer, e, names_.expert_gate_up, 2 * intermediate), order));
    }
  }

  WeightPart expert_part(int layer, int e, const char* part, int64_t rows, int64_t cols) const {
    const std::string name = layer_tensor(names_, layer, part);
    MatrixRequest request{name, rows, cols, config_.layout.experts_transposed};
    if (is_numbered(name)) {
      request.name = numbered(name, e);
    } else {
      request.index = e;
      request.count = config_.moe.num_experts;
    }
    return to_format(stored_.matrix(request));
  }

  std::vector<float> expert_bias(int layer, int e, const char* part, int64_t size) const {
    const std::string name = layer_tensor(names_, layer, part);
    if (is_numbered(name)) return bias(numbered(name, e), size);
    return stored_.stacked_vector(stored_.bias_name(name), e, config_.moe.num_experts, size, backend_);
  }

  /// Stored as [1, hidden] or, in GGUF, as [hidden].
  WeightPart shared_scale(int layer) const {
    return stored_.single_row(layer_tensor(names_, layer, names_.shared_scale), config_.hidden_size);
  }

  /// A matrix of a layer.
  WeightPart linear_part(const std::string& name, int64_t rows, int64_t cols) const {
    return to_format(stored_.matrix({.name = name, .rows = rows, .cols = cols, .transposed = config_.layout.transposed}));
  }

  /// The embedding or the head. They touch every token, so they are kept at 8 bits where the other matrices have fewer.
  WeightPart end_matrix(const char* name) const {
    const WeightPart part = stored_.matrix({name, config_.vocab_size, config_.hidden_size});
    if (!plan_.weight_format) return part;
    const WeightFormatInfo info = weight_format_info(*plan_.weight_format);
    const bool below_8_bits = static_cast<int64_t>(info.block_bytes) < info.block_values;
    return quantise_part(part, below_8_bits ? WeightFormat::q8_0 : *plan_.weight_format);
  }

  WeightPart to_format(const WeightPart& part) const {
    return plan_.weight_format ? quantise_part(part, *plan_.weight_format) : part;
  }

  static WeightPart ordered(WeightPart part, const std::vector<int32_t>& order) {
    return order.empty() ? part : pick_rows(part, order);
  }

  Weight matrix(const std::vector<WeightPart>& parts) {
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

  std::vector<float> bias(const std::string& name, int64_t size) const {
    return stored_.vector(stored_.bias_name(name), size, backend_);
  }

  static std::vector<float> picked(const std::vector<float>& values, const std::vector<int32_t>& order) {
    if (order.empty()) return values;
    std::vector<float> result;
    for (const int32_t i : order) result.push_back(values[static_cast<size_t>(i)]);
    return result;
  }

  Norm norm(const std::string& name) {
    const float* weight = config_.norm_weight
                              ? norm_weight(stored_.vector(stored_.weight_name(name), config_.hidden_size, backend_))
                              : vector({std::vector<float>(static_cast<size_t>(config_.hidden_size), 1.0f)});
    const float* shift = config_.norm_bias ? vector({bias(name, config_.hidden_size)}) : nullptr;
    return {config_.norm, weight, shift, config_.norm_eps};
  }

  /// The norm of q's or k's heads. `order`: of the rows of all heads, empty for as stored.
  const float* head_norm(const std::string& name, int heads, const std::vector<int32_t>& order) {
    const int64_t width = int64_t{heads} * config_.head_dim;
    std::vector<float> values;
    if (config_.qk_norm == QkNorm::head) {
      values = stored_.vector(name + ".weight", config_.head_dim, backend_);
      if (!order.empty()) values = picked(values, {order.begin(), order.begin() + config_.head_dim});
    } else if (name.back() == '.') {
      for (int head = 0; head < heads; ++head) {
        const std::vector<float> own = stored_.vector(name + std::to_string(head) + ".weight", config_.head_dim, backend_);
        values.insert(values.end(), own.begin(), own.end());
      }
      values = picked(values, order);
    } else {
      values = picked(stored_.vector(name + ".weight", width, backend_), order);
    }
    return norm_weight(std::move(values));
  }

  const float* norm_weight(std::vector<float> values) {
    if (config_.layout.norm_offset != 0) {
      for (float& value : values) value += config_.layout.norm_offset;
    }
    return vector({std::move(values)});
  }

  const float* vector(const std::vector<std::vector<float>>& parts) {
    std::vector<float> values;
    for (const std::vector<float>& part : parts) values.insert(values.end(), part.begin(), part.end());
    weights_.num_parameters += static_cast<int64_t>(values.size());
    return upload(values);
  }

  const float* rope_table(const RopeConfig& rope) {
    if (config_.learned_positions) return nullptr;
    if (backend_) return upload(make_rope_table(rope, plan_.num_positions));
    rope_frequencies(rope, plan_.num_positions);  // for its checks
    weights_.bytes += static_cast<size_t>(plan_.num_positions) * static_cast<size_t>(rope.rotary_dim) * sizeof(float);
    return nullptr;
  }

  const float* upload(const std::vector<float>& values) {
    const size_t bytes = values.size() * sizeof(float);
    weights_.bytes += bytes;
    if (!backend_) return nullptr;
    weights_.buffers.push_back(backend_->allocate(bytes));
    backend_->upload(weights_.buffers.back().get(), values.data(), bytes);
    return static_cast<const float*>(weights_.buffers.back().get());
  }

  const WeightPlan& plan_;
  const ModelConfig& config_;
  const TensorNames& names_;
  const StoredWeights stored_;
  const BackendTraits& traits_;
  Backend* backend_;
  const QkvRows rows_;
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

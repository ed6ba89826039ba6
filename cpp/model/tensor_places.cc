// Names and row orders by role.
#include "model/tensor_places.h"

#include "core/check.h"

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

/// Where the rows of q, k or v stand in a tensor that holds all three. `member`: which heads of a KV head's group.
std::vector<int32_t> fused_rows(const ModelConfig& config, QkvOrder order, MatrixRole role) {
  const int64_t head_dim = config.head_dim, q_rows = config.num_heads * head_dim, kv_rows = config.kv_heads * head_dim;
  if (order == QkvOrder::stacked) {
    if (role == MatrixRole::q) return counting(0, q_rows);
    return counting(role == MatrixRole::k ? q_rows : q_rows + kv_rows, kv_rows);
  }
  const int group = config.num_heads / config.kv_heads;
  const int first = role == MatrixRole::q ? 0 : role == MatrixRole::k ? group : group + 1;
  const int members = role == MatrixRole::q ? group : 1;
  std::vector<int32_t> rows;
  for (int kv_head = 0; kv_head < config.kv_heads; ++kv_head) {
    const std::vector<int32_t> own = counting((int64_t{kv_head} * (group + 2) + first) * head_dim, members * head_dim);
    rows.insert(rows.end(), own.begin(), own.end());
  }
  return rows;
}

std::vector<int32_t> composed(const std::vector<int32_t>& outer, const std::vector<int32_t>& inner) {
  std::vector<int32_t> rows;
  for (const int32_t i : inner) rows.push_back(outer[static_cast<size_t>(i)]);
  return rows;
}

/// The gate or the up rows of a tensor that holds both.
std::vector<int32_t> half_rows(bool is_up, int64_t intermediate, bool alternate) {
  if (!alternate) return counting(is_up ? intermediate : 0, intermediate);
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < intermediate; ++i) rows.push_back(static_cast<int32_t>(2 * i + is_up));
  return rows;
}

bool is_up(MatrixRole role) { return role == MatrixRole::up || role == MatrixRole::expert_up || role == MatrixRole::shared_up; }

bool is_down(MatrixRole role) {
  return role == MatrixRole::down || role == MatrixRole::expert_down || role == MatrixRole::shared_down;
}

void add_mlp(const ModelConfig& config, int layer, MatrixRole gate, MatrixRole up, MatrixRole down,
             std::vector<MatrixId>& list) {
  if (config.gated_mlp) list.push_back({gate, layer});
  list.push_back({up, layer});
  list.push_back({down, layer});
}

void add_experts(const ModelConfig& config, int layer, std::vector<MatrixId>& list) {
  list.push_back({MatrixRole::router, layer});
  for (const MatrixRole role : {MatrixRole::expert_gate, MatrixRole::expert_up, MatrixRole::expert_down}) {
    for (int expert = 0; expert < config.moe.num_experts; ++expert) list.push_back({role, layer, expert});
  }
  if (config.moe.shared_intermediate_size == 0) return;
  add_mlp(config, layer, MatrixRole::shared_gate, MatrixRole::shared_up, MatrixRole::shared_down, list);
  if (config.moe.shared_gate) list.push_back({MatrixRole::shared_scale, layer});
}

}  // namespace

bool is_linear(MatrixRole role) {
  switch (role) {
    case MatrixRole::embedding:
    case MatrixRole::positions:
    case MatrixRole::lm_head:
    case MatrixRole::router:
    case MatrixRole::shared_scale:
      return false;
    default:
      return true;
  }
}

bool has_bias(const ModelConfig& config, MatrixRole role) {
  switch (role) {
    case MatrixRole::lm_head:
      return config.lm_head_bias;
    case MatrixRole::q:
    case MatrixRole::k:
    case MatrixRole::v:
      return config.qkv_bias;
    case MatrixRole::out:
      return config.out_bias;
    case MatrixRole::router:
      return config.moe.router_bias;
    case MatrixRole::expert_gate:
    case MatrixRole::expert_up:
    case MatrixRole::expert_down:
      return config.moe.expert_bias;
    case MatrixRole::gate:
    case MatrixRole::up:
    case MatrixRole::down:
    case MatrixRole::shared_gate:
    case MatrixRole::shared_up:
    case MatrixRole::shared_down:
      return config.mlp_bias;
    case MatrixRole::embedding:
    case MatrixRole::positions:
    case MatrixRole::shared_scale:
      break;
  }
  return false;
}

std::vector<MatrixId> matrices_of(const ModelConfig& config) {
  std::vector<MatrixId> list{{MatrixRole::embedding}};
  if (config.learned_positions) list.push_back({MatrixRole::positions});
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const MatrixRole role : {MatrixRole::q, MatrixRole::k, MatrixRole::v, MatrixRole::out}) list.push_back({role, layer});
    if (config.is_sparse(layer)) {
      add_experts(config, layer, list);
    } else {
      add_mlp(config, layer, MatrixRole::gate, MatrixRole::up, MatrixRole::down, list);
    }
  }
  if (!config.tied_embeddings) list.push_back({MatrixRole::lm_head});
  return list;
}

std::vector<NormRole> layer_norms_of(const ModelConfig& config) {
  std::vector<NormRole> list;
  if (config.attn_norm) list.push_back(NormRole::attn);
  if (config.post_attn_norm) list.push_back(NormRole::post_attn);
  if (config.mlp_norm) list.push_back(NormRole::mlp);
  if (config.post_mlp_norm) list.push_back(NormRole::post_mlp);
  return list;
}

TensorPlaces::TensorPlaces(const ModelConfig& config, const TensorLayout& layout)
    : config_(config), layout_(layout), names_(*layout.names) {}

std::string TensorPlaces::in_layer(int layer, const char* part) const {
  ensure(part, "a tensor of ", config_.architecture, " has no name");
  return layer_tensor(names_, layer, part);
}

MatrixPlace TensorPlaces::qkv_place(MatrixId id) const {
  const int heads = id.role == MatrixRole::q ? config_.num_heads : config_.kv_heads;
  const int64_t rows = int64_t{heads} * config_.head_dim;
  const bool pairs = layout_.rope_rows_interleaved && id.role != MatrixRole::v;
  const std::vector<int32_t> own =
      pairs ? half_split_order(heads, config_.head_dim, config_.rope.rotary_dim) : std::vector<int32_t>{};
  MatrixPlace place{.tensor = {}, .rows = rows, .cols = config_.hidden_size, .tensor_rows = rows, .row_order = own};
  place.transposed = layout_.transposed;
  if (names_.qkv) {
    const std::vector<int32_t> all = fused_rows(config_, layout_.qkv_order, id.role);
    place.tensor = in_layer(id.layer, names_.qkv);
    place.tensor_rows = (int64_t{config_.num_heads} + 2 * config_.kv_heads) * config_.head_dim;
    place.row_order = pairs ? composed(all, own) : all;
  } else {
    place.tensor = in_layer(id.layer, id.role == MatrixRole::q ? names_.q : id.role == MatrixRole::k ? names_.k : names_.v);
  }
  return place;
}

/// A matrix of a multilayer perceptron; `fused`, if not null, holds gate and up.
MatrixPlace TensorPlaces::mlp_place(MatrixId id, const char* own, const char* fused, int64_t intermediate) const {
  MatrixPlace place{
      .tensor = {}, .rows = intermediate, .cols = config_.hidden_size, .tensor_rows = intermediate, .row_order = {}};
  if (is_down(id.role)) std::swap(place.rows, place.cols);
  place.tensor_rows = place.rows;
  place.transposed = layout_.transposed;
  if (fused && !is_down(id.role)) {
    place.tensor_rows = 2 * intermediate;
    place.row_order = half_rows(is_up(id.role), intermediate, false);
    own = fused;
  }
  place.tensor = in_layer(id.layer, own);
  return place;
}

MatrixPlace TensorPlaces::expert_place(MatrixId id, const char* own, const char* fused) const {
  const int64_t intermediate = config_.moe.intermediate_size;
  MatrixPlace place = mlp_place(id, own, fused, intermediate);
  place.transposed = layout_.experts_transposed;
  if (fused && !is_down(id.role)) {
    place.row_order = half_rows(is_up(id.role), intermediate, layout_.expert_gate_up_alternates);
  }
  const size_t star = place.tensor.find('*');  // stands for the expert's number: see TensorNames
  if (star != std::string::npos) {
    place.tensor.replace(star, 1, std::to_string(id.expert));
  } else {
    place.index = id.expert;
    place.count = config_.moe.num_experts;
  }
  return place;
}

MatrixPlace TensorPlaces::matrix(MatrixId id) const {
  const int64_t hidden = config_.hidden_size, intermediate = config_.intermediate_size;
  const int64_t shared = config_.moe.shared_intermediate_size, num_experts = config_.moe.num_experts;
  const auto whole = [](std::string tensor, int64_t rows, int64_t cols) {
    return MatrixPlace{.tensor = std::move(tensor), .rows = rows, .cols = cols, .tensor_rows = rows, .row_order = {}};
  };
  switch (id.role) {
    case MatrixRole::embedding:
      return whole(names_.embedding, config_.vocab_size, hidden);
    case MatrixRole::positions:
      return whole(names_.positions, config_.max_context, hidden);
    case MatrixRole::lm_head:
      return whole(names_.lm_head, config_.vocab_size, hidden);
    case MatrixRole::q:
    case MatrixRole::k:
    case MatrixRole::v:
      return qkv_place(id);
    case MatrixRole::out: {
      MatrixPlace place = whole(in_layer(id.layer, names_.out), hidden, int64_t{config_.num_heads} * config_.head_dim);
      place.transposed = layout_.transposed;
      return place;
    }
    case MatrixRole::gate:
      return mlp_place(id, names_.gate, names_.gate_up, intermediate);
    case MatrixRole::up:
      return mlp_place(id, names_.up, names_.gate_up, intermediate);
    case MatrixRole::down:
      return mlp_place(id, names_.down, nullptr, intermediate);
    case MatrixRole::router:
      return whole(in_layer(id.layer, names_.router), num_experts, hidden);
    case MatrixRole::expert_gate:
      return expert_place(id, names_.expert_gate, names_.expert_gate_up);
    case MatrixRole::expert_up:
      return expert_place(id, names_.expert_up, names_.expert_gate_up);
    case MatrixRole::expert_down:
      return expert_place(id, names_.expert_down, nullptr);
    case MatrixRole::shared_gate:
      return mlp_place(id, names_.shared_gate, names_.shared_gate_up, shared);
    case MatrixRole::shared_up:
      return mlp_place(id, names_.shared_up, names_.shared_gate_up, shared);
    case MatrixRole::shared_down:
      return mlp_place(id, names_.shared_down, nullptr, shared);
    case MatrixRole::shared_scale:
      return whole(in_layer(id.layer, names_.shared_scale), 1, hidden);
  }
  throw InternalError("TensorPlaces::matrix of an unknown role");
}

std::string TensorPlaces::norm(NormRole role, int layer) const {
  switch (role) {
    case NormRole::attn:
      return in_layer(layer, names_.attn_norm);
    case NormRole::post_attn:
      return in_layer(layer, names_.post_attn_norm);
    case NormRole::mlp:
      return in_layer(layer, names_.mlp_norm);
    case NormRole::post_mlp:
      return in_layer(layer, names_.post_mlp_norm);
    case NormRole::final:
      break;
  }
  return names_.final_norm;
}

HeadNormPlace TensorPlaces::head_norm(const std::string& name, int heads) const {
  const bool shared = config_.qk_norm == QkNorm::head;
  const int num_heads = shared ? 1 : heads;
  HeadNormPlace place{{}, int64_t{num_heads} * config_.head_dim, {}};
  if (layout_.rope_rows_interleaved) place.order = half_split_order(num_heads, config_.head_dim, config_.rope.rotary_dim);
  if (shared || name.back() != '.') {
    place.tensors.push_back(name + ".weight");
    return place;
  }
  place.tensor_size = config_.head_dim;
  for (int head = 0; head < heads; ++head) place.tensors.push_back(name + std::to_string(head) + ".weight");
  return place;
}

HeadNormPlace TensorPlaces::q_norm(int layer) const { return head_norm(in_layer(layer, names_.q_norm), config_.num_heads); }

HeadNormPlace TensorPlaces::k_norm(int layer) const { return head_norm(in_layer(layer, names_.k_norm), config_.kv_heads); }

std::string TensorPlaces::sinks(int layer) const { return in_layer(layer, names_.sinks); }

}  // namespace pagoda

// Member by member; rotary positions by the tables they give.
#include "model/config_difference.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <type_traits>
#include <vector>

#include "core/check.h"
#include "model/rope_table.h"

namespace pagoda {
namespace {

/// Collects the first difference.
class Comparison {
 public:
  Comparison(const ModelConfig& wanted, const ModelConfig& found) : wanted_(wanted), found_(found) {}

  template <class T>
  void equal(const std::string& what, const T& wanted, const T& found) {
    if (text_.empty() && !(wanted == found)) text_ = str(what, " is ", shown(found), " instead of ", shown(wanted));
  }

  template <class T>
  void member(const char* what, T ModelConfig::* field) {
    equal(what, wanted_.*field, found_.*field);
  }

  template <class T>
  void moe_member(const char* what, T MoeConfig::* field) {
    equal(what, wanted_.moe.*field, found_.moe.*field);
  }

  void same(const std::string& what, bool is_same) {
    if (text_.empty() && !is_same) text_ = what + " is another one";
  }

  std::string text() const { return text_; }

 private:
  template <class T>
  static auto shown(const T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      return value ? "true" : "false";
    } else {
      return value;
    }
  }

  const ModelConfig& wanted_;
  const ModelConfig& found_;
  std::string text_;
};

void compare_sizes(Comparison& c) {
  c.member("the vocabulary", &ModelConfig::vocab_size);
  c.member("the hidden size", &ModelConfig::hidden_size);
  c.member("the intermediate size", &ModelConfig::intermediate_size);
  c.member("the number of layers", &ModelConfig::num_layers);
  c.member("the number of heads", &ModelConfig::num_heads);
  c.member("the number of KV heads", &ModelConfig::kv_heads);
  c.member("the head dimension", &ModelConfig::head_dim);
  c.member("the context", &ModelConfig::max_context);
}

void compare_block(Comparison& c) {
  c.member("the norms' epsilon", &ModelConfig::norm_eps);
  c.member("tied_embeddings", &ModelConfig::tied_embeddings);
  c.member("norm_bias", &ModelConfig::norm_bias);
  c.member("norm_weight", &ModelConfig::norm_weight);
  c.member("attn_norm", &ModelConfig::attn_norm);
  c.member("post_attn_norm", &ModelConfig::post_attn_norm);
  c.member("mlp_norm", &ModelConfig::mlp_norm);
  c.member("post_mlp_norm", &ModelConfig::post_mlp_norm);
  c.member("parallel_block", &ModelConfig::parallel_block);
  c.member("gated_mlp", &ModelConfig::gated_mlp);
  c.member("qkv_bias", &ModelConfig::qkv_bias);
  c.member("out_bias", &ModelConfig::out_bias);
  c.member("mlp_bias", &ModelConfig::mlp_bias);
  c.member("lm_head_bias", &ModelConfig::lm_head_bias);
  c.member("the soft cap of attention", &ModelConfig::attention_soft_cap);
  c.member("attention_sinks", &ModelConfig::attention_sinks);
  c.member("learned_positions", &ModelConfig::learned_positions);
  c.member("the scale of embeddings", &ModelConfig::embedding_scale);
  c.member("the scale of residuals", &ModelConfig::residual_scale);
  c.member("the scale of logits", &ModelConfig::logit_scale);
  c.member("the soft cap of logits", &ModelConfig::logit_soft_cap);
}

void compare_kinds(const ModelConfig& wanted, const ModelConfig& found, Comparison& c) {
  c.same("the activation", wanted.activation == found.activation);
  c.same("the kind of norm", wanted.norm == found.norm);
  c.same("the norm of q and k", wanted.qk_norm == found.qk_norm && wanted.qk_norm_kind == found.qk_norm_kind);
}

void compare_experts(const ModelConfig& wanted, const ModelConfig& found, Comparison& c) {
  c.moe_member("the number of experts", &MoeConfig::num_experts);
  if (wanted.moe.num_experts == 0) return;
  c.moe_member("the experts' intermediate size", &MoeConfig::intermediate_size);
  c.moe_member("router_bias", &MoeConfig::router_bias);
  c.moe_member("expert_bias", &MoeConfig::expert_bias);
  c.moe_member("the shared expert's intermediate size", &MoeConfig::shared_intermediate_size);
  c.moe_member("shared_gate", &MoeConfig::shared_gate);
  const RouteArgs &a = wanted.moe.route, &b = found.moe.route;
  c.equal("the number of experts of a token", a.top_k, b.top_k);
  c.equal("the router's scale", a.scale, b.scale);
  c.equal("the router's softmax over all experts", a.softmax_first, b.softmax_first);
  if (a.softmax_first) c.equal("the router's normalising", a.normalise, b.normalise);
  for (int layer = 0; layer < wanted.num_layers; ++layer) {
    c.equal(str("layer ", layer, "'s having experts"), wanted.is_sparse(layer), found.is_sparse(layer));
  }
}

/// The factor of q·k as it is used.
float attention_scale(const ModelConfig& config) {
  return config.attention_scale != 0 ? config.attention_scale : 1 / std::sqrt(static_cast<float>(config.head_dim));
}

int window_of(const ModelConfig& config, int layer) {
  const int window = config.windows.empty() ? 0 : config.windows[static_cast<size_t>(layer)];
  return window >= config.max_context ? 0 : window;
}

/// Whether tables of so many positions turn alike, but for the last bit of a float.
bool same_turns(const RopeConfig& wanted, const RopeConfig& found, int64_t num_positions) {
  constexpr double kLastBit = 1.2e-7;
  const std::vector<double> a = rope_frequencies(wanted, num_positions), b = rope_frequencies(found, num_positions);
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return std::abs(x - y) <= kLastBit * std::abs(x); });
}

bool same_rope(const RopeConfig& wanted, const RopeConfig& found, int64_t max_context) {
  if (wanted.rotary_dim != found.rotary_dim) return false;
  if ((wanted.scaling == RopeScaling::dynamic) != (found.scaling == RopeScaling::dynamic)) return false;
  if (static_cast<float>(wanted.attention_factor) != static_cast<float>(found.attention_factor)) return false;
  std::vector<int64_t> lengths{max_context};
  if (wanted.scaling == RopeScaling::longrope) lengths.push_back(static_cast<int64_t>(wanted.original_context));
  return std::all_of(lengths.begin(), lengths.end(), [&](int64_t length) { return same_turns(wanted, found, length); });
}

void compare_positions(const ModelConfig& wanted, const ModelConfig& found, Comparison& c) {
  for (int layer = 0; layer < wanted.num_layers; ++layer) {
    c.equal(str("the sliding window of layer ", layer), window_of(wanted, layer), window_of(found, layer));
    const RopeConfig *a = wanted.layer_rope(layer), *b = found.layer_rope(layer);
    c.equal(str("layer ", layer, "'s rotating q and k"), a != nullptr, b != nullptr);
    if (!a || !b) continue;
    c.same(str("the rotation of layer ", layer, " (rope_theta, rope_scaling, partial_rotary_factor)"),
           same_rope(*a, *b, wanted.max_context));
  }
}

std::set<int32_t> end_tokens(const ModelConfig& config) { return {config.eos_tokens.begin(), config.eos_tokens.end()}; }

}  // namespace

std::string config_difference(const ModelConfig& wanted, const ModelConfig& found) {
  Comparison c(wanted, found);
  compare_sizes(c);
  if (!c.text().empty()) return c.text();
  compare_block(c);
  compare_kinds(wanted, found, c);
  compare_experts(wanted, found, c);
  c.equal("the scale of attention", attention_scale(wanted), attention_scale(found));
  compare_positions(wanted, found, c);
  const std::set<int32_t> ends = end_tokens(found);
  for (const int32_t token : end_tokens(wanted)) {
    c.equal(str("token ", token, "'s ending a sequence"), true, ends.contains(token));
  }
  return c.text();
}

}  // namespace pagoda

// The operations as a model calls them: shapes are checked, outputs and scratch come from the arena, then the backend runs.
// A model sees only this class. Made by the runner (with a backend) and by the memory planner (without: a dry run).
#pragma once

#include <cstdint>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "core/tensor.h"

namespace pagoda {

/// Every operation throws InternalError, naming itself and the shapes, when the shapes or types do not fit together. Tensors it
/// returns lie in the arena and live as long as the arena's enclosing scope. T tokens, H hidden size, R logit rows; "act" is
/// the backend's activation type. Engine thread only.
///
/// A dry run makes the same checks and the same allocations in a measuring arena, touches no data and calls no backend; all
/// data pointers are null. What it measures is exactly what a real run of the same shapes uses.
class Ops {
 public:
  /// `backend` null: a dry run, `arena` is a measuring one. Both must outlive this object.
  Ops(const BackendTraits& traits, Backend* backend, Arena& arena);

  /// An uninitialised tensor.
  Tensor allocate(DType dtype, Shape shape);

  /// [n, table.cols] act: rows ids[n] of the table.
  Tensor embed(const Weight& table, const int32_t* ids, int64_t n);
  /// [T, H] act from x[T, H] act.
  Tensor norm(const Tensor& x, const Norm& norm);
  /// x[T, H] act = norm(x).
  void norm_in_place(const Tensor& x, const Norm& norm);
  /// residual[T, H] += scale * x[T, H] (both act); returns norm(residual).
  Tensor add_norm(const Tensor& residual, const Tensor& x, float scale, const Norm& norm);
  /// residual[T, H] += scale * x[T, H] (both act).
  void add(const Tensor& residual, const Tensor& x, float scale);
  /// x[T, H] (act or f32) = factor * x, then, if cap > 0, cap * tanh(x / cap).
  void scale(const Tensor& x, float factor, float cap = 0);
  /// [T, weight.rows] act from x[T, weight.cols] act and bias[weight.rows] or null.
  Tensor linear(const Tensor& x, const Weight& weight, const float* bias = nullptr);
  /// The same into out[T, weight.rows], which is act or f32 and may be strided.
  void linear_into(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias = nullptr);
  /// [R, weight.rows] f32; bias[weight.rows] or null.
  Tensor logits(const Tensor& x, const Weight& weight, const float* bias = nullptr);
  /// Routes T tokens by their logits[T, num_experts] f32 (see `logits`); the arrays lie in the arena.
  Routing route(const Tensor& logits, int num_experts, const RouteArgs& args);
  /// [T * k, R] act by place, from x[T, K] act by token or x[T * k, K] act by place, `experts` of num_experts groups of R rows,
  /// and bias[num_experts, R] or null.
  Tensor grouped_linear(const Tensor& x, const Weight& experts, const float* bias, const Routing& routing, ExpertInput input);
  /// out[T, H] act = each token's rows of y[T * k, H] act (by place) times the weights of their experts, summed.
  void combine_experts(const Tensor& out, const Tensor& y, const Routing& routing);
  /// x[T, H] act *= sigmoid(gate[T, 1] act).
  void sigmoid_scale(const Tensor& x, const Tensor& gate);
  /// Norms and rotates q and k of qkv[T, (num_heads + 2 * kv_heads) * head_dim] act in place, stores k and v in the cache and
  /// returns the view of q, [T, num_heads * head_dim].
  Tensor rope_store_kv(const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch);
  /// [T, num_heads * head_dim] act from q of the same shape. The step's keys and values are in the cache already.
  Tensor paged_attention(const Tensor& q, const AttentionArgs& args, const KvLayer& kv, const Batch& batch);
  /// out[T, H] act = linear(gated_activation(linear(x, up)), down), for weights up[2I, H] and down[H, I].
  void gated_mlp_into(const Tensor& out, const Tensor& x, const Weight& up, const float* up_bias, Activation activation,
                      const Weight& down, const float* down_bias);
  /// [T, I] act from gate_up[T, 2I] act.
  Tensor gated_activation(const Tensor& gate_up, Activation activation);
  /// x[T, I] act = activation(x).
  void activation(const Tensor& x, Activation activation);
  /// [n, H] act: rows `rows`[n] of x[T, H] act.
  Tensor gather_rows(const Tensor& x, const int32_t* rows, int64_t n);
  /// The same into out[n, H] act.
  void gather_rows_into(const Tensor& out, const Tensor& x, const int32_t* rows);

  /// The different kinds of products asked for so far, each with the most tokens; kept in dry runs only.
  const std::vector<LinearUse>& linear_uses() const { return linear_uses_; }

  /// Of the backend, also in a dry run.
  const BackendTraits& traits() const { return traits_; }
  Arena& arena() { return arena_; }
  bool dry() const { return backend_ == nullptr; }

 private:
  void check_activation(const char* operation, const char* name, const Tensor& tensor) const;
  void check_sum(const char* operation, const Tensor& residual, const Tensor& x) const;

  void record_use(const Tensor& out, const Weight& weight);

  const BackendTraits& traits_;
  Backend* backend_;
  Arena& arena_;
  std::vector<LinearUse> linear_uses_;
};

}  // namespace pagoda

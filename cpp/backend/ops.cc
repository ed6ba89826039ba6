// Shape checks and arena allocation around each backend operation.
#include "backend/ops.h"

#include <algorithm>
#include <limits>
#include <ostream>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr int kMaxHeadDim = 256;  // the widest head that the attention kernels have scratch for

/// What an error text says of an operand. Formatted only if the check fails: checks run in the step loop, which must not
/// allocate.
struct Shown {
  const Tensor* tensor = nullptr;
  const Weight* weight = nullptr;
};

std::ostream& operator<<(std::ostream& out, const Shown& shown) {
  if (shown.tensor) return out << dtype_name(shown.tensor->dtype) << shown.tensor->shape.to_string();
  out << "weight[" << shown.weight->rows << ", " << shown.weight->cols << "]";
  return shown.weight->num_groups == 1 ? out : out << " of " << shown.weight->num_groups << " experts";
}

Shown describe(const Tensor& tensor) { return {&tensor, nullptr}; }
Shown describe(const Weight& weight) { return {nullptr, &weight}; }

/// Head counts and the head size fit together and the cache holds such heads.
void check_heads(const BackendTraits& traits, const char* operation, int num_heads, int kv_heads, int head_dim,
                 const KvLayer& kv, const Batch& batch) {
  ensure(num_heads > 0 && kv_heads > 0 && num_heads % kv_heads == 0, operation, ": ", num_heads, " heads cannot share ",
         kv_heads, " KV heads");
  ensure(head_dim > 0 && head_dim <= kMaxHeadDim, operation, ": head_dim must be in [1, ", kMaxHeadDim, "], got ", head_dim);
  const KvLayout& layout = kv.layout;
  ensure(layout.kv_heads == kv_heads && layout.head_dim == head_dim, operation, ": the KV cache holds ", layout.kv_heads,
         " heads of ", layout.head_dim, ", the model has ", kv_heads, " heads of ", head_dim);
  ensure(traits.holds_kv(layout.dtype), operation, ": the ", traits.name, " backend has no KV cache of ",
         dtype_name(layout.dtype));
  ensure(layout.block_size > 0 && (layout.block_size & (layout.block_size - 1)) == 0 && batch.block_size == layout.block_size,
         operation, ": block_size must be a power of two and the batch's, got ", layout.block_size, " in the cache and ",
         batch.block_size, " in the batch");
}

void check_tokens(const char* operation, const Tensor& tensor, const Batch& batch) {
  ensure(tensor.rows() == batch.num_tokens, operation, ": ", describe(tensor), " does not have the batch's ", batch.num_tokens,
         " tokens");
}

}  // namespace

Ops::Ops(const BackendTraits& traits, Backend* backend, Arena& arena) : traits_(traits), backend_(backend), arena_(arena) {
  ensure((backend == nullptr) == arena.measuring(), "Ops: a dry run takes a measuring arena, a real run one with memory");
}

void Ops::check_activation(const char* operation, const char* name, const Tensor& tensor) const {
  ensure(tensor.shape.rank() == 2 && tensor.dtype == traits_.activation_dtype && tensor.row_stride >= tensor.cols(), operation,
         ": ", name, " must be ", dtype_name(traits_.activation_dtype), "[rows, columns], got ", describe(tensor),
         " with row stride ", tensor.row_stride);
}

void Ops::check_sum(const char* operation, const Tensor& residual, const Tensor& x) const {
  check_activation(operation, "residual", residual);
  check_activation(operation, "x", x);
  ensure(residual.shape == x.shape, operation, ": residual ", describe(residual), " and x ", describe(x), " differ in shape");
}

Tensor Ops::allocate(DType dtype, Shape shape) {
  const Tensor view = Tensor::dense(nullptr, dtype, shape);
  ensure(shape.numel() >= 0, "allocate: negative shape ", describe(view));
  return Tensor::dense(arena_.allocate(static_cast<size_t>(shape.numel()) * dtype_bytes(dtype)), dtype, shape);
}

Tensor Ops::embed(const Weight& table, const int32_t* ids, int64_t n) {
  ensure(n >= 0 && table.rows > 0, "embed: ", n, " ids of ", describe(table));
  const Tensor out = allocate(traits_.activation_dtype, {n, table.cols});
  if (backend_) backend_->embed(out, table, ids);
  return out;
}

Tensor Ops::norm(const Tensor& x, const Norm& norm) {
  check_activation("norm", "x", x);
  const Tensor out = allocate(traits_.activation_dtype, x.shape);
  if (backend_) backend_->norm(out, x, norm);
  return out;
}

void Ops::norm_in_place(const Tensor& x, const Norm& norm) {
  check_activation("norm", "x", x);
  if (backend_) backend_->norm(x, x, norm);
}

Tensor Ops::add_norm(const Tensor& residual, const Tensor& x, float scale, const Norm& norm) {
  check_sum("add_norm", residual, x);
  const Tensor out = allocate(traits_.activation_dtype, x.shape);
  if (backend_) backend_->add_norm(out, residual, x, scale, norm);
  return out;
}

void Ops::add(const Tensor& residual, const Tensor& x, float scale) {
  check_sum("add", residual, x);
  if (backend_) backend_->add(residual, x, scale);
}

void Ops::scale(const Tensor& x, float factor, float cap) {
  ensure(x.shape.rank() == 2 && (x.dtype == traits_.activation_dtype || x.dtype == DType::f32), "scale: x must be ",
         dtype_name(traits_.activation_dtype), " or f32 [rows, columns], got ", describe(x));
  ensure(cap >= 0, "scale: the cap must be >= 0, got ", cap);
  if (backend_) backend_->scale(x, factor, cap);
}

Tensor Ops::linear(const Tensor& x, const Weight& weight, const float* bias) {
  check_activation("linear", "x", x);
  const Tensor out = allocate(traits_.activation_dtype, {x.rows(), weight.rows});
  linear_into(out, x, weight, bias);
  return out;
}

void Ops::linear_into(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias) {
  check_activation("linear", "x", x);
  ensure(x.cols() == weight.cols, "linear: x ", describe(x), " does not fit ", describe(weight));
  ensure(out.dtype == traits_.activation_dtype || out.dtype == DType::f32, "linear: out ", describe(out), " must be ",
         dtype_name(traits_.activation_dtype), " or f32");
  ensure(out.shape == Shape{x.rows(), weight.rows}, "linear: out ", describe(out), " does not fit x ", describe(x), " and ",
         describe(weight));
  Arena::Scope scope(arena_);
  void* workspace = arena_.allocate(traits_.linear_workspace(x.rows(), weight.rows, weight.cols, weight.part_formats));
  if (!backend_) return record_use(out, weight);
  backend_->linear(out, x, weight, bias, workspace);
}

void Ops::gated_mlp_into(const Tensor& out, const Tensor& x, const Weight& up, const float* up_bias, Activation activation,
                         const Weight& down, const float* down_bias) {
  check_activation("gated_mlp", "x", x);
  ensure(x.cols() == up.cols && up.rows == 2 * down.cols, "gated_mlp: x ", describe(x), ", up ", describe(up), " and down ",
         describe(down), " do not fit one another");
  ensure(out.shape == Shape{x.rows(), down.rows}, "gated_mlp: out ", describe(out), " does not fit ", describe(down));
  Arena::Scope scope(arena_);
  const Tensor gated = allocate(traits_.activation_dtype, {x.rows(), down.cols});
  const int64_t most_rows = traits_.most_gate_up_rows;
  const int64_t gate_up_rows = most_rows > 0 ? std::min(x.rows(), most_rows) : x.rows();
  const Tensor gate_up = allocate(traits_.activation_dtype, {gate_up_rows, up.rows});
  const auto workspace_of = [&](const Weight& weight) {
    return traits_.linear_workspace(x.rows(), weight.rows, weight.cols, weight.part_formats);
  };
  void* workspace = arena_.allocate(std::max(workspace_of(up), workspace_of(down)));
  if (backend_) return backend_->gated_mlp(out, x, {up, up_bias, activation, down, down_bias, gate_up, gated, workspace});
  record_use(gate_up, up);
  record_use(out, down);
}

void Ops::record_use(const Tensor& out, const Weight& weight) {
  const LinearUse use{weight.rows, weight.cols, out.dtype, out.rows()};
  for (LinearUse& known : linear_uses_) {
    if (known.rows != use.rows || known.cols != use.cols || known.out != use.out) continue;
    known.max_tokens = std::max(known.max_tokens, use.max_tokens);
    return;
  }
  linear_uses_.push_back(use);
}

Tensor Ops::logits(const Tensor& x, const Weight& weight, const float* bias) {
  check_activation("logits", "x", x);
  const Tensor out = allocate(DType::f32, {x.rows(), weight.rows});
  linear_into(out, x, weight, bias);
  return out;
}

Routing Ops::route(const Tensor& logits, int num_experts, const RouteArgs& args) {
  ensure(logits.shape.rank() == 2 && logits.dtype == DType::f32 && logits.cols() == num_experts, "route: logits ",
         describe(logits), " must be f32[tokens, ", num_experts, "]");
  ensure(args.top_k >= 1 && args.top_k <= num_experts, "route: top_k must be in [1, ", num_experts, "], got ", args.top_k);
  Routing routing{.num_experts = num_experts, .top_k = args.top_k, .num_tokens = logits.rows()};
  const int64_t num_pairs = routing.num_pairs();
  ensure(num_pairs <= std::numeric_limits<int32_t>::max(), "route: ", num_pairs, " pairs of ", describe(logits),
         " are too many");
  routing.experts = allocate(DType::i32, {num_pairs}).as<int32_t>();
  routing.weights = allocate(DType::f32, {num_pairs}).as<float>();
  routing.expert_start = allocate(DType::i32, {num_experts + 1}).as<int32_t>();
  routing.pairs = allocate(DType::i32, {num_pairs}).as<int32_t>();
  routing.places = allocate(DType::i32, {num_pairs}).as<int32_t>();
  if (backend_) backend_->route(routing, logits, args);
  return routing;
}

Tensor Ops::grouped_linear(const Tensor& x, const Weight& experts, const float* bias, const Routing& routing,
                           ExpertInput input) {
  check_activation("grouped_linear", "x", x);
  const int num_groups = experts.num_groups;
  ensure(num_groups == routing.num_experts && experts.rows % num_groups == 0 &&
             experts.part_formats.size() % static_cast<size_t>(num_groups) == 0,
         "grouped_linear: ", describe(experts), " in ", experts.part_formats.size(), " parts does not hold ",
         routing.num_experts, " equal experts");
  const int64_t num_rows = input == ExpertInput::by_token ? routing.num_tokens : routing.num_pairs();
  ensure(x.cols() == experts.cols && x.rows() == num_rows, "grouped_linear: x ", describe(x), " does not fit ",
         describe(experts), " and ", num_rows, input == ExpertInput::by_token ? " tokens" : " places");
  const Tensor out = allocate(traits_.activation_dtype, {routing.num_pairs(), experts.rows / num_groups});
  Arena::Scope scope(arena_);
  void* workspace =
      arena_.allocate(traits_.grouped_linear_workspace(routing.num_pairs(), experts.cols, experts.part_formats, input));
  if (backend_) backend_->grouped_linear(out, x, experts, bias, routing, input, workspace);
  return out;
}

void Ops::combine_experts(const Tensor& out, const Tensor& y, const Routing& routing) {
  check_activation("combine_experts", "out", out);
  check_activation("combine_experts", "y", y);
  ensure(y.rows() == routing.num_pairs(), "combine_experts: y ", describe(y), " does not have ", routing.num_pairs(),
         " places, ", routing.top_k, " for each of ", routing.num_tokens, " tokens");
  ensure(out.shape == Shape{routing.num_tokens, y.cols()}, "combine_experts: out ", describe(out), " does not fit y ",
         describe(y), " of ", routing.num_tokens, " tokens");
  if (backend_) backend_->combine_experts(out, y, routing);
}

void Ops::sigmoid_scale(const Tensor& x, const Tensor& gate) {
  check_activation("sigmoid_scale", "x", x);
  check_activation("sigmoid_scale", "gate", gate);
  ensure(gate.shape == Shape{x.rows(), 1}, "sigmoid_scale: gate ", describe(gate), " must be one column of x ", describe(x),
         "'s rows");
  if (backend_) backend_->sigmoid_scale(x, gate);
}

Tensor Ops::rope_store_kv(const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch) {
  check_activation("rope_store_kv", "qkv", qkv);
  check_heads(traits_, "rope_store_kv", args.num_heads, args.kv_heads, args.head_dim, kv, batch);
  check_tokens("rope_store_kv", qkv, batch);
  ensure(qkv.cols() == int64_t{args.num_heads + 2 * args.kv_heads} * args.head_dim, "rope_store_kv: qkv ", describe(qkv),
         " does not hold ", args.num_heads, " + 2 * ", args.kv_heads, " heads of ", args.head_dim);
  ensure(args.rotary_dim >= 0 && args.rotary_dim <= args.head_dim && args.rotary_dim % 2 == 0,
         "rope_store_kv: rotary_dim must be even and in [0, ", args.head_dim, "], got ", args.rotary_dim);
  ensure(args.norm_stride == 0 || args.norm_stride == args.head_dim, "rope_store_kv: norm_stride must be 0 or head_dim ",
         args.head_dim, ", got ", args.norm_stride);
  if (backend_) backend_->rope_store_kv(qkv, args, kv, batch);
  const int64_t q_cols = int64_t{args.num_heads} * args.head_dim;
  return {qkv.data, qkv.dtype, {qkv.rows(), q_cols}, qkv.row_stride};
}

Tensor Ops::paged_attention(const Tensor& q, const AttentionArgs& args, const KvLayer& kv, const Batch& batch) {
  check_activation("paged_attention", "q", q);
  check_heads(traits_, "paged_attention", args.num_heads, args.kv_heads, args.head_dim, kv, batch);
  check_tokens("paged_attention", q, batch);
  ensure(q.cols() == int64_t{args.num_heads} * args.head_dim, "paged_attention: q ", describe(q), " does not hold ",
         args.num_heads, " heads of ", args.head_dim);
  ensure(args.window >= 0 && args.soft_cap >= 0, "paged_attention: window and soft_cap must be >= 0, got ", args.window,
         " and ", args.soft_cap);
  const Tensor out = allocate(traits_.activation_dtype, q.shape);
  Arena::Scope scope(arena_);
  void* workspace = arena_.allocate(traits_.attention_workspace(batch.num_tokens, batch.max_kv_len, args));
  if (backend_) backend_->paged_attention(out, q, args, kv, batch, workspace);
  return out;
}

Tensor Ops::gated_activation(const Tensor& gate_up, Activation activation) {
  check_activation("gated_activation", "gate_up", gate_up);
  ensure(gate_up.cols() % 2 == 0, "gated_activation: gate_up ", describe(gate_up), " must have an even number of columns");
  const Tensor out = allocate(traits_.activation_dtype, {gate_up.rows(), gate_up.cols() / 2});
  if (backend_) backend_->gated_activation(out, gate_up, activation);
  return out;
}

void Ops::activation(const Tensor& x, Activation activation) {
  check_activation("activation", "x", x);
  ensure(activation != Activation::clamped_swiglu, "activation: clamped_swiglu needs a gate");
  if (backend_) backend_->activation(x, activation);
}

Tensor Ops::gather_rows(const Tensor& x, const int32_t* rows, int64_t n) {
  ensure(n >= 0, "gather_rows: negative number of rows ", n, " of x ", describe(x));
  const Tensor out = allocate(traits_.activation_dtype, {n, x.cols()});
  gather_rows_into(out, x, rows);
  return out;
}

void Ops::gather_rows_into(const Tensor& out, const Tensor& x, const int32_t* rows) {
  check_activation("gather_rows", "x", x);
  check_activation("gather_rows", "out", out);
  ensure(out.cols() == x.cols(), "gather_rows: out ", describe(out), " cannot hold rows of x ", describe(x));
  if (backend_) backend_->gather_rows(out, x, rows);
}

}  // namespace pagoda

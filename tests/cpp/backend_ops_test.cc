// Ops: a dry run measures what a real run uses, results come out of the arena, and shapes that do not fit are named.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "backend/ops.h"

/// Calls of the global operator new in this test binary.
static std::atomic<int64_t> num_allocations{0};

// Not inlined: g++ would see malloc paired with delete, or new with free, and warn.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++num_allocations;
  if (void* data = std::malloc(bytes ? bytes : 1)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace pagoda {
namespace {

Norm rms(const float* weight) { return {NormKind::rms, weight, nullptr, 1e-5f}; }

constexpr int kTokens = 5, kHidden = 32, kVocab = 64, kExperts = 4;

/// A one-layer "model" that calls every operation, and everything it needs.
class TinyModel {
 public:
  explicit TinyModel(Backend* backend) : values_(size_t{kVocab} * 64, 0.25f), norm_(kHidden, 1.0f), cos_sin_(8 * 16, 0.5f) {
    const auto pack = [&](int64_t rows, int64_t cols) {
      const WeightPart part{WeightFormat::f32, rows, cols, reinterpret_cast<const std::byte*>(values_.data()), {}};
      if (backend) return backend->pack({&part, 1});
      Weight weight;
      weight.rows = rows;
      weight.cols = cols;
      weight.part_formats = {part.format};
      return weight;
    };
    table_ = pack(kVocab, kHidden);
    qkv_ = pack(64, kHidden);
    down_ = pack(kHidden, kHidden / 2);
    square_ = pack(kHidden, kHidden);
    router_ = pack(kExperts, kHidden);
    expert_up_ = pack_experts(backend, kHidden, kHidden);
    expert_down_ = pack_experts(backend, kHidden, kHidden / 2);
    kv_.layout = {DType::f32, 4, 1, 16};
    if (backend) {
      kv_buffer_ = backend->allocate(2 * kv_.layout.block_bytes());
      kv_.data = kv_buffer_.get();
    }
    std::iota(index_.begin(), index_.end(), 0);
    batch_.num_tokens = kTokens;
    batch_.num_seqs = 1;
    batch_.max_blocks = 2;
    batch_.num_logit_rows = 2;
    batch_.max_kv_len = kTokens;
    batch_.block_size = 4;
    batch_.token_ids = batch_.positions = batch_.slots = batch_.block_table = batch_.logit_rows = index_.data();
    batch_.query_start = query_start_;
    batch_.kv_len = query_start_ + 1;
  }

  Tensor forward(Ops& ops) const {
    const AttentionArgs attention{.num_heads = 2, .kv_heads = 1, .head_dim = 16, .scale = 0.25f};
    const RopeStoreArgs rope{.num_heads = 2, .kv_heads = 1, .head_dim = 16, .rotary_dim = 16, .cos_sin = cos_sin_.data()};
    const Tensor residual = ops.embed(table_, batch_.token_ids, kTokens);
    const Tensor h = ops.norm(residual, rms(norm_.data()));
    const Tensor q = ops.rope_store_kv(ops.linear(h, qkv_), rope, kv_, batch_);
    const Tensor x = ops.paged_attention(q, attention, kv_, batch_);
    const Tensor mlp = ops.gated_activation(ops.add_norm(residual, x, 1.0f, rms(norm_.data())), Activation::silu);
    const Tensor out = ops.allocate(DType::f32, {kTokens, kHidden});
    ops.linear_into(out, mlp, down_);
    const Tensor gated = ops.allocate(DType::f32, {kTokens, kHidden});
    ops.gated_mlp_into(gated, out, qkv_, nullptr, Activation::silu, square_, nullptr);
    ops.add(residual, gated, 0.5f);
    ops.add(residual, routed(ops.norm(out, {NormKind::layer, norm_.data(), norm_.data(), 1e-5f}), ops), 0.5f);
    ops.norm_in_place(residual, rms(norm_.data()));
    const Tensor logits = ops.logits(ops.gather_rows(residual, batch_.logit_rows, batch_.num_logit_rows), table_);
    ops.scale(logits, 0.25f, 30.0f);
    return logits;
  }

  KvLayer& kv() { return kv_; }
  Batch& batch() { return batch_; }

 private:
  /// kExperts experts of [rows, cols].
  Weight pack_experts(Backend* backend, int64_t rows, int64_t cols) {
    const WeightPart part{WeightFormat::f32, rows, cols, reinterpret_cast<const std::byte*>(values_.data()), {}, nullptr};
    const std::vector<WeightPart> parts(kExperts, part);
    Weight weight;
    if (backend) weight = backend->pack(parts);
    weight.rows = kExperts * rows;
    weight.cols = cols;
    weight.part_formats.assign(kExperts, part.format);
    weight.num_groups = kExperts;
    return weight;
  }

  Tensor routed(const Tensor& h, Ops& ops) const {
    const Routing routing = ops.route(ops.logits(h, router_), kExperts, {.top_k = 2, .normalise = true});
    const Tensor up = ops.grouped_linear(h, expert_up_, nullptr, routing, ExpertInput::by_token);
    const Tensor inner = ops.gated_activation(up, Activation::clamped_swiglu);
    const Tensor down = ops.grouped_linear(inner, expert_down_, nullptr, routing, ExpertInput::by_place);
    const Tensor x = ops.allocate(h.dtype, h.shape);
    ops.combine_experts(x, down, routing);
    ops.activation(x, Activation::relu);
    ops.sigmoid_scale(x, h.columns(0, 1));
    return x;
  }

  std::vector<float> values_, norm_, cos_sin_;
  Weight table_, qkv_, down_, square_, router_, expert_up_, expert_down_;
  Buffer kv_buffer_;
  KvLayer kv_;
  std::vector<int32_t> index_ = std::vector<int32_t>(8);
  int32_t query_start_[2] = {0, kTokens};
  Batch batch_;
};

TEST(Ops, a_dry_run_measures_exactly_what_a_real_run_uses) {
  Arena measured;
  Ops dry(cpu_traits(), nullptr, measured);
  EXPECT_TRUE(dry.dry());
  const Tensor shape_only = TinyModel(nullptr).forward(dry);
  EXPECT_EQ(shape_only.data, nullptr);

  const std::unique_ptr<Backend> backend = make_cpu_backend({2, "auto"});
  Arena arena(*backend, measured.high_water());
  Ops real(backend->traits(), backend.get(), arena);
  EXPECT_FALSE(real.dry());
  const Tensor logits = TinyModel(backend.get()).forward(real);
  EXPECT_EQ(arena.high_water(), measured.high_water());
  EXPECT_EQ(logits.shape, shape_only.shape);
  for (int64_t r = 0; r < logits.rows(); ++r) {
    for (int64_t i = 0; i < logits.cols(); ++i) EXPECT_TRUE(std::isfinite(logits.row<float>(r)[i]));
  }

  Arena short_arena(*backend, measured.high_water() - 64);
  Ops short_ops(backend->traits(), backend.get(), short_arena);
  EXPECT_THROW(TinyModel(backend.get()).forward(short_ops), InternalError);
}

TEST(Ops, a_step_allocates_no_heap_memory) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({2, "auto"});
  const TinyModel model(backend.get());
  Arena arena(*backend, 1 << 20);
  Ops ops(backend->traits(), backend.get(), arena);
  model.forward(ops);
  const int64_t before = num_allocations;
  model.forward(ops);
  EXPECT_EQ(num_allocations, before);
  EXPECT_GT(before, 0);
}

TEST(Ops, every_pointer_of_a_dry_run_is_null) {
  Arena arena;
  Ops ops(cpu_traits(), nullptr, arena);
  TinyModel model(nullptr);
  const Tensor qkv = ops.allocate(DType::f32, {kTokens, 64});
  const RopeStoreArgs rope{.num_heads = 2, .kv_heads = 1, .head_dim = 16, .rotary_dim = 16};
  const Tensor q = ops.rope_store_kv(qkv, rope, model.kv(), model.batch());
  EXPECT_EQ(qkv.data, nullptr);
  EXPECT_EQ(q.data, nullptr);
  EXPECT_EQ(q.shape, (Shape{kTokens, 32}));
  EXPECT_EQ(q.row_stride, 64);
}

TEST(Ops, scratch_is_given_back_and_results_are_kept) {
  Arena arena;
  Ops ops(cpu_traits(), nullptr, arena);
  Weight weight;
  weight.rows = 16;
  weight.cols = 32;
  weight.part_formats = {WeightFormat::q8_0};
  const Tensor x = ops.allocate(DType::f32, {4, 32});
  ops.linear(x, weight);
  EXPECT_EQ(arena.used(), 4u * 32 * 4 + 4 * 16 * 4);
  EXPECT_GT(arena.high_water(), arena.used());
}

TEST(Ops, a_backend_and_a_measuring_arena_do_not_go_together) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  Arena measuring, real(*backend, 64);
  EXPECT_THROW(Ops(cpu_traits(), backend.get(), measuring), InternalError);
  EXPECT_THROW(Ops(cpu_traits(), nullptr, real), InternalError);
}

/// `body` throws an InternalError whose text has both the operation and `shape`.
void expect_shape_error(const std::string& operation, const std::string& shape, const std::function<void()>& body) {
  try {
    body();
    FAIL() << operation << " accepted what it should not";
  } catch (const InternalError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.rfind(operation + ": ", 0), 0u) << text;
    EXPECT_NE(text.find(shape), std::string::npos) << text;
  }
}

TEST(Ops, shapes_that_do_not_fit_are_named_with_their_operation) {
  Arena arena;
  Ops ops(cpu_traits(), nullptr, arena);
  TinyModel model(nullptr);
  const KvLayer& kv = model.kv();
  const Batch& batch = model.batch();
  Weight weight;
  weight.rows = 8;
  weight.cols = 32;
  weight.part_formats = {WeightFormat::f32};
  const Tensor x = ops.allocate(DType::f32, {5, 31}), y = ops.allocate(DType::f32, {5, 32});
  const Tensor half = ops.allocate(DType::bf16, {5, 32}), cube = ops.allocate(DType::f32, {2, 3, 4});
  const RopeStoreArgs rope{.num_heads = 2, .kv_heads = 1, .head_dim = 16, .rotary_dim = 16};
  const AttentionArgs attention{.num_heads = 2, .kv_heads = 1, .head_dim = 16};

  expect_shape_error("norm", "bf16[5, 32]", [&] { ops.norm(half, {}); });
  expect_shape_error("norm", "f32[2, 3, 4]", [&] { ops.norm_in_place(cube, {}); });
  expect_shape_error("add_norm", "f32[5, 31]", [&] { ops.add_norm(y, x, 1, {}); });
  expect_shape_error("add", "f32[5, 31]", [&] { ops.add(y, x, 1); });
  expect_shape_error("scale", "bf16[5, 32]", [&] { ops.scale(half, 1); });
  expect_shape_error("scale", "f32[2, 3, 4]", [&] { ops.scale(cube, 1); });
  expect_shape_error("scale", "-1", [&] { ops.scale(y, 1, -1); });
  expect_shape_error("add", "bf16[5, 32]", [&] { ops.add(y, half, 1); });
  expect_shape_error("activation", "bf16[5, 32]", [&] { ops.activation(half, Activation::silu); });
  expect_shape_error("activation", "needs a gate", [&] { ops.activation(y, Activation::clamped_swiglu); });
  expect_shape_error("linear", "weight[8, 32]", [&] { ops.linear(x, weight); });
  expect_shape_error("linear", "f32[5, 31]", [&] { ops.linear_into(x, y, weight); });
  expect_shape_error("logits", "bf16[5, 32]", [&] { ops.logits(half, weight); });
  expect_shape_error("embed", "weight[0, 0]", [&] { ops.embed(Weight{}, nullptr, 3); });
  expect_shape_error("gather_rows", "f32[5, 31]", [&] { ops.gather_rows(x, nullptr, -1); });
  expect_shape_error("gather_rows", "f32[5, 32]", [&] { ops.gather_rows_into(y, x, nullptr); });
  expect_shape_error("gated_activation", "f32[5, 31]", [&] { ops.gated_activation(x, Activation::silu); });
  Weight down = weight;
  down.rows = 32, down.cols = 4;
  const auto mlp = [&](const Tensor& out, const Tensor& in) {
    ops.gated_mlp_into(out, in, weight, nullptr, Activation::silu, down, nullptr);
  };
  expect_shape_error("gated_mlp", "f32[5, 31]", [&] { mlp(y, x); });
  expect_shape_error("gated_mlp", "f32[5, 31]", [&] { mlp(x, y); });
  down.cols = 5;
  expect_shape_error("gated_mlp", "weight[32, 5]", [&] { mlp(y, y); });
  expect_shape_error("rope_store_kv", "f32[5, 32]", [&] { ops.rope_store_kv(y, rope, kv, batch); });
  expect_shape_error("paged_attention", "f32[5, 31]", [&] { ops.paged_attention(x, attention, kv, batch); });
}

TEST(Ops, experts_that_do_not_fit_their_routing_are_named) {
  Arena arena;
  Ops ops(cpu_traits(), nullptr, arena);
  const Tensor logits = ops.allocate(DType::f32, {kTokens, 4}), half = ops.allocate(DType::bf16, {kTokens, 4});
  expect_shape_error("route", "f32[5, 4]", [&] { ops.route(logits, 5, {.top_k = 2}); });
  expect_shape_error("route", "bf16[5, 4]", [&] { ops.route(half, 4, {.top_k = 2}); });
  expect_shape_error("route", "[1, 4], got 5", [&] { ops.route(logits, 4, {.top_k = 5}); });
  expect_shape_error("route", "[1, 4], got 0", [&] { ops.route(logits, 4, {}); });
  const Routing routing = ops.route(logits, 4, {.top_k = 2});
  EXPECT_EQ(routing.num_pairs(), 10);

  const Tensor x = ops.allocate(DType::f32, {kTokens, 32}), y = ops.allocate(DType::f32, {10, 32});
  Weight experts;
  experts.rows = 4 * 6;
  experts.cols = 32;
  experts.num_groups = 4;
  experts.part_formats.assign(8, WeightFormat::q8_0);
  const auto multiply = [&](const Tensor& input, const Weight& weight, ExpertInput kind) {
    return [&ops, &routing, input, weight, kind] { ops.grouped_linear(input, weight, nullptr, routing, kind); };
  };
  EXPECT_EQ(ops.grouped_linear(x, experts, nullptr, routing, ExpertInput::by_token).shape, (Shape{10, 6}));
  EXPECT_EQ(ops.grouped_linear(y, experts, nullptr, routing, ExpertInput::by_place).shape, (Shape{10, 6}));
  expect_shape_error("grouped_linear", "f32[10, 32]", multiply(y, experts, ExpertInput::by_token));
  expect_shape_error("grouped_linear", "10 places", multiply(x, experts, ExpertInput::by_place));
  expect_shape_error("grouped_linear", "f32[5, 4]", multiply(logits, experts, ExpertInput::by_token));
  Weight other = experts;
  other.num_groups = 3;
  expect_shape_error("grouped_linear", "of 3 experts", multiply(x, other, ExpertInput::by_token));
  other = experts;
  other.rows = 25;
  expect_shape_error("grouped_linear", "weight[25, 32]", multiply(x, other, ExpertInput::by_token));
  other = experts;
  other.part_formats.pop_back();
  expect_shape_error("grouped_linear", "in 7 parts", multiply(x, other, ExpertInput::by_token));

  ops.combine_experts(x, y, routing);
  expect_shape_error("combine_experts", "f32[5, 32]", [&] { ops.combine_experts(x, x, routing); });
  expect_shape_error("combine_experts", "f32[5, 31]", [&] { ops.combine_experts(x.columns(0, 31), y, routing); });
  ops.sigmoid_scale(x, x.columns(0, 1));
  expect_shape_error("sigmoid_scale", "f32[5, 32]", [&] { ops.sigmoid_scale(x, x); });
  expect_shape_error("sigmoid_scale", "f32[5, 32]", [&] { ops.sigmoid_scale(x, y.columns(0, 1)); });
}

TEST(Ops, head_counts_caches_and_batches_that_do_not_fit_are_named) {
  Arena arena;
  Ops ops(cpu_traits(), nullptr, arena);
  TinyModel model(nullptr);
  const Tensor q = ops.allocate(DType::f32, {kTokens, 32});
  const AttentionArgs good{.num_heads = 2, .kv_heads = 1, .head_dim = 16};
  const auto attend = [&](const AttentionArgs& args, const KvLayer& kv, const Batch& batch) {
    return [&ops, q, args, kv, batch] { ops.paged_attention(q, args, kv, batch); };
  };
  const KvLayer kv = model.kv();
  const Batch batch = model.batch();
  ops.paged_attention(q, good, kv, batch);

  AttentionArgs args = good;
  args.num_heads = 3, args.kv_heads = 2;
  expect_shape_error("paged_attention", "3 heads cannot share 2 KV heads", attend(args, kv, batch));
  args = good;
  args.head_dim = 257;
  expect_shape_error("paged_attention", "257", attend(args, kv, batch));
  args = good;
  args.window = -1;
  expect_shape_error("paged_attention", "-1", attend(args, kv, batch));
  KvLayer other = kv;
  other.layout.kv_heads = 2;
  expect_shape_error("paged_attention", "holds 2 heads of 16", attend(good, other, batch));
  other = kv;
  other.layout.dtype = DType::i32;
  expect_shape_error("paged_attention", "i32", attend(good, other, batch));
  Batch more = batch;
  more.num_tokens = 6;
  expect_shape_error("paged_attention", "6 tokens", attend(good, kv, more));
  more = batch;
  more.block_size = 8;
  expect_shape_error("paged_attention", "4 in the cache and 8", attend(good, kv, more));
  args = good;
  args.soft_cap = -2;
  expect_shape_error("paged_attention", "-2", attend(args, kv, batch));
  RopeStoreArgs rope{.num_heads = 2, .kv_heads = 1, .head_dim = 16, .rotary_dim = 18};
  const Tensor qkv = ops.allocate(DType::f32, {kTokens, 64});
  expect_shape_error("rope_store_kv", "18", [&] { ops.rope_store_kv(qkv, rope, kv, batch); });
  rope.rotary_dim = 0;
  ops.rope_store_kv(qkv, rope, kv, batch);
  rope.norm_stride = 8;
  expect_shape_error("rope_store_kv", "norm_stride must be 0 or head_dim 16, got 8",
                     [&] { ops.rope_store_kv(qkv, rope, kv, batch); });
}

}  // namespace
}  // namespace pagoda

// Rotation, the paged cache and attention, against the CPU. What the cache holds is compared through what attention reads.
#include "paged_run.h"

namespace pagoda::device_test {
namespace {

/// q, weights and the result are rounded to bf16.
constexpr Tolerance kTolerance{0.006, 0.02};

std::vector<PagedCase> cases() {
  const std::vector<int> short_ones = {1, 70, 33};
  std::vector<PagedCase> all = {
      {4, 2, 64, DType::bf16, 16, 0, 0, false, false, short_ones},
      {3, 1, 64, DType::bf16, 16, 0, 0, false, true, short_ones},
      {8, 1, 128, DType::bf16, 32, 0, 0, false, true, {65, 5}},
      {2, 2, 96, DType::bf16, 16, 0, 0, false, false, short_ones},
      {2, 1, 256, DType::bf16, 16, 0, 20, false, true, {40, 3}},
      {4, 2, 64, DType::bf16, 8, 24, 0, false, true, short_ones},
      {4, 4, 64, DType::bf16, 16, 0, 0, true, false, short_ones},
      {16, 1, 128, DType::bf16, 64, 16, 0, true, false, {50}},
      {7, 1, 64, DType::f16, 16, 0, 0, false, false, short_ones},
      {4, 1, 128, DType::f8_e4m3, 16, 0, 0, false, false, short_ones},
      {2, 1, 16, DType::bf16, 4, 0, 0, false, true, short_ones},
      {2, 1, 80, DType::bf16, 1, 0, 0, false, false, {20}},
      {1, 1, 64, DType::bf16, 16, 0, 0, false, false, {300, 257}},
  };
  if (!is_emulated()) {
    const std::vector<int> long_ones = {1500, 1, 700, 16, 2049};
    for (const int head_dim : {64, 96, 128, 256}) {
      for (const DType dtype : {DType::bf16, DType::f16, DType::f8_e4m3}) {
        all.push_back({8, 2, head_dim, dtype, 16, 0, 0, false, dtype == DType::bf16, long_ones});
        all.push_back({5, 1, head_dim, dtype, 32, 333, 0, true, false, long_ones});
      }
    }
    all.push_back({32, 8, 128, DType::bf16, 16, 0, 0, false, true, {4100}});
  }
  return all;
}

class Attention : public DeviceTest {
 protected:
  void expect_same_attention(const PagedCase& c, const std::function<void(PagedRun&)>& steps) {
    SCOPED_TRACE(::testing::Message() << c);
    expect_same(kTolerance, [&](Machine& machine) {
      PagedRun run(machine, c);
      steps(run);
      return run.out();
    });
  }
  void expect_same_prompts() {
    for (const PagedCase& c : cases()) expect_same_attention(c, [](PagedRun& run) { run.run_whole(); });
  }
  void expect_same_chunks() {
    for (const PagedCase& c : cases())
      expect_same_attention(c, [](PagedRun& run) { run.run_in_chunks(is_emulated() ? 20 : 500); });
  }
};

/// Where the order of a sum may depend on the hardware: Hopper's own kernel for prompts.
class FastAttention : public Attention {
 protected:
  bool deterministic() const override { return false; }
};

TEST_F(Attention, prompts_at_once) { expect_same_prompts(); }
TEST_F(FastAttention, prompts_at_once) { expect_same_prompts(); }
TEST_F(Attention, prompts_in_chunks) { expect_same_chunks(); }
TEST_F(FastAttention, prompts_in_chunks) { expect_same_chunks(); }

TEST_F(Attention, prompts_and_then_single_tokens) {
  for (const PagedCase& c : cases()) expect_same_attention(c, [](PagedRun& run) { run.run_and_decode(3); });
}

/// One step with a chunk of a prompt, whole prompts and single tokens.
TEST_F(Attention, steps_of_all_kinds) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f8_e4m3}) {
    expect_same_attention({4, 2, 64, dtype, 16, 0, 0, false, false, {40, 70, 9, 33}}, [](PagedRun& run) {
      run.step({{0, 0, 39}, {1, 0, 30}, {3, 0, 32}});
      run.step({{0, 39, 40}, {1, 30, 69}, {2, 0, 9}, {3, 32, 33}});
      run.step({{1, 69, 70}});
    });
  }
}

struct RopeCase {
  int num_heads, kv_heads, head_dim, rotary_dim;
  NormKind norm = NormKind::rms;
  bool q_norm = false, k_norm = false, norm_per_head = false;
};

/// q and k as they are left in place; slot -1 stores nothing.
std::vector<float> rotate(Machine& machine, const RopeCase& c) {
  constexpr int kTokens = 5, kPositions = 40;
  std::vector<float> angles = random_values(kPositions * c.rotary_dim, 2), q_norm = random_values(c.num_heads * c.head_dim, 3),
                     k_norm = random_values(c.kv_heads * c.head_dim, 4);
  for (int i = 0; i < kPositions * c.rotary_dim; ++i) {
    const int half = c.rotary_dim / 2, at = i / c.rotary_dim * c.rotary_dim + i % c.rotary_dim % half;
    const double angle = 3.0 * at;
    angles[static_cast<size_t>(i)] = static_cast<float>(i % c.rotary_dim < half ? std::cos(angle) : std::sin(angle));
  }
  const RopeStoreArgs args{c.num_heads,
                           c.kv_heads,
                           c.head_dim,
                           c.rotary_dim,
                           machine.array(angles),
                           c.norm,
                           c.q_norm ? machine.array(q_norm) : nullptr,
                           c.k_norm ? machine.array(k_norm) : nullptr,
                           c.norm_per_head ? c.head_dim : 0,
                           1e-5f};
  KvLayer kv{nullptr, {DType::bf16, 16, c.kv_heads, c.head_dim}};
  kv.data = machine.memory(3 * kv.layout.block_bytes());
  Batch batch;
  batch.num_tokens = kTokens;
  batch.block_size = 16;
  batch.positions = machine.array(std::vector<int32_t>{0, 7, 39, 1, 20});
  batch.slots = machine.array(std::vector<int32_t>{16, 47, -1, 3, 0});
  const int cols = (c.num_heads + 2 * c.kv_heads) * c.head_dim;
  const Tensor qkv = machine.activations(random_values(kTokens * cols, 1), cols, cols + 8);
  machine->rope_store_kv(qkv, args, kv, batch);
  return machine.read(qkv.columns(0, c.num_heads * c.head_dim));
}

TEST_F(Attention, queries_are_normed_and_rotated) {
  for (const RopeCase& c :
       {RopeCase{4, 2, 64, 64}, RopeCase{4, 2, 64, 64, NormKind::rms, true, true},
        RopeCase{3, 1, 96, 48, NormKind::layer, true, true, true}, RopeCase{2, 2, 128, 128, NormKind::rms, true},
        RopeCase{2, 1, 256, 64}, RopeCase{2, 1, 80, 20, NormKind::layer, false, true}, RopeCase{1, 1, 18, 6}}) {
    SCOPED_TRACE(::testing::Message() << c.num_heads << "/" << c.kv_heads << " heads of " << c.head_dim << ", "
                                      << c.rotary_dim);
    expect_same({0.003, 0.006}, [&](Machine& machine) { return rotate(machine, c); });
  }
}

}  // namespace
}  // namespace pagoda::device_test

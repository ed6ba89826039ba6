// Bitwise equations on the device with `deterministic`: what a request gets does not depend on what else is computed with it,
// on how its prompt was cut, or on whether a step was recorded.
#include "paged_run.h"
#include "stored_matrix.h"

namespace pagoda::device_test {
namespace {

class Determinism : public DeviceTest {
 protected:
  static std::vector<float> row_of(const std::vector<float>& values, int64_t row, int64_t cols) {
    return {values.begin() + row * cols, values.begin() + (row + 1) * cols};
  }
  /// `operation` gives each row of an input [rows, cols] a row of `out_cols` values; any part of the rows must give the same
  /// bits.
  void expect_rows_alone(int64_t rows, int64_t cols, int64_t out_cols,
                         const std::function<Tensor(Machine&, const Tensor&)>& operation) {
    const std::vector<float> x = random_values(rows * cols, 1);
    const std::vector<float> all = gpu().read(operation(gpu(), gpu().activations(x, cols)));
    for (const auto& [begin, end] :
         {std::pair{int64_t{0}, int64_t{1}}, {rows / 2, rows / 2 + 1}, {rows - 1, rows}, {rows / 3, rows}}) {
      const std::vector<float> part(x.begin() + begin * cols, x.begin() + end * cols);
      const std::vector<float> got = gpu().read(operation(gpu(), gpu().activations(part, cols)));
      const std::vector<float> expected(all.begin() + begin * out_cols, all.begin() + end * out_cols);
      EXPECT_TRUE(same_bits(expected, got)) << "rows [" << begin << ", " << end << ") of " << rows;
    }
    gpu().clear();
  }
};

std::vector<int64_t> batch_sizes() {
  if (is_emulated()) return {2, 9, 17, 40};
  return {2, 9, 17, 40, 65, 130, 300, 2048};
}

TEST_F(Determinism, rows_of_our_own_products_do_not_depend_on_the_batch) {
  const int64_t rows = is_emulated() ? 96 : 4096, cols = is_emulated() ? 320 : 4096;
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::q8_0, WeightFormat::q4_0}) {
    SCOPED_TRACE(weight_format_info(format).name);
    const Weight weight = pack(gpu(), {StoredMatrix(format, rows, cols, 3)});
    for (const int64_t tokens : batch_sizes()) {
      expect_rows_alone(tokens, cols, rows, [&](Machine& machine, const Tensor& x) {
        const Tensor out = machine.empty(DType::f32, x.rows(), rows);
        multiply(machine, out, x, weight, nullptr);
        return out;
      });
    }
  }
}

TEST_F(Determinism, rows_of_tuned_products_do_not_depend_on_the_batch) {
  const int64_t rows = is_emulated() ? 128 : 6144, cols = is_emulated() ? 64 : 4096;
  for (const DType out_type : {DType::bf16, DType::f32}) {
    const Weight weight = pack(gpu(), {StoredMatrix(WeightFormat::bf16, rows, cols, 3)});
    const LinearUse use{rows, cols, out_type, batch_sizes().back()};
    gpu()->tune({&use, 1});
    for (const int64_t tokens : batch_sizes()) {
      expect_rows_alone(tokens, cols, rows, [&](Machine& machine, const Tensor& x) {
        const Tensor out = machine.empty(out_type, x.rows(), rows);
        multiply(machine, out, x, weight, nullptr);
        return out;
      });
    }
  }
}

TEST_F(Determinism, norms_and_activations_do_not_depend_on_the_batch) {
  for (const int64_t cols : {70, 576, 4096}) {
    for (const int64_t rows : batch_sizes()) {
      expect_rows_alone(rows, cols, cols, [&](Machine& machine, const Tensor& x) {
        const Tensor out = machine.empty(machine.act(), x.rows(), cols);
        machine->norm(out, x, {NormKind::rms, machine.array(random_values(cols, 4)), nullptr, 1e-5f});
        machine->activation(out, Activation::gelu_tanh);
        return out;
      });
    }
  }
}

/// The contract of grouped_linear: a row has the bits of `linear` with its expert.
TEST_F(Determinism, products_by_expert_have_the_bits_of_plain_ones) {
  constexpr int kExperts = 6, kTopK = 2;
  const int64_t tokens = 23, rows = is_emulated() ? 48 : 1024, cols = is_emulated() ? 128 : 2048;
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::q8_0, WeightFormat::q4_1}) {
    SCOPED_TRACE(weight_format_info(format).name);
    Machine& machine = gpu();
    std::vector<StoredMatrix> stored;
    for (unsigned e = 0; e < kExperts; ++e) stored.emplace_back(format, rows, cols, 40 + e);
    Weight experts = pack(machine, stored);
    experts.num_groups = kExperts;
    const auto integers = [&](int64_t n) { return static_cast<int32_t*>(machine.memory(static_cast<size_t>(n) * 4)); };
    Routing routing{kExperts,
                    kTopK,
                    tokens,
                    integers(tokens * kTopK),
                    nullptr,
                    integers(kExperts + 1),
                    integers(tokens * kTopK),
                    integers(tokens * kTopK)};
    routing.weights = machine.array(std::vector<float>(static_cast<size_t>(tokens * kTopK)));
    machine->route(routing, machine.floats(random_values(tokens * kExperts, 6), kExperts), {.top_k = kTopK});
    const std::vector<float> x = random_values(tokens * cols, 7);
    const Tensor out = machine.empty(machine.act(), tokens * kTopK, rows), input = machine.activations(x, cols);
    void* workspace = machine.memory(
        machine->traits().grouped_linear_workspace(tokens * kTopK, cols, experts.part_formats, ExpertInput::by_token));
    machine->grouped_linear(out, input, experts, nullptr, routing, ExpertInput::by_token, workspace);
    const std::vector<float> got = machine.read(out);
    const std::vector<int32_t> chosen = machine.read(routing.experts, tokens * kTopK),
                               places = machine.read(routing.places, tokens * kTopK);
    for (unsigned e = 0; e < kExperts; ++e) {
      const Tensor plain = machine.empty(machine.act(), tokens, rows);
      multiply(machine, plain, input, pack(machine, {stored[e]}), nullptr);
      const std::vector<float> expected = machine.read(plain);
      for (int64_t pair = 0; pair < tokens * kTopK; ++pair) {
        if (chosen[static_cast<size_t>(pair)] != static_cast<int32_t>(e)) continue;
        EXPECT_TRUE(same_bits(row_of(expected, pair / kTopK, rows), row_of(got, places[static_cast<size_t>(pair)], rows)))
            << "expert " << e << ", pair " << pair;
      }
    }
  }
}

std::vector<PagedCase> attention_cases() {
  std::vector<PagedCase> all = {{4, 2, 64, DType::bf16, 16, 0, 0, false, true, {70, 1, 33}},
                                {8, 1, 128, DType::bf16, 16, 20, 0, true, true, {50, 20}},
                                {2, 1, 64, DType::f8_e4m3, 16, 0, 10, false, false, {40, 65}}};
  if (!is_emulated()) {
    for (const int head_dim : {64, 96, 128, 256}) {
      for (const DType dtype : {DType::bf16, DType::f16, DType::f8_e4m3}) {
        all.push_back({8, 2, head_dim, dtype, 16, 0, 0, false, dtype == DType::bf16, {1030, 1, 513, 256, 700}});
      }
    }
    all.push_back({16, 1, 128, DType::bf16, 32, 300, 0, true, true, {900, 1200}});
  }
  return all;
}

/// Attention of all positions, computed as `steps` says.
std::vector<float> attend(Machine& machine, const PagedCase& c, const std::function<void(PagedRun&)>& steps) {
  PagedRun run(machine, c);
  steps(run);
  std::vector<float> out = run.out();
  machine.clear();
  return out;
}

TEST_F(Determinism, chunks_of_a_prompt_give_the_bits_of_the_whole) {
  for (const PagedCase& c : attention_cases()) {
    SCOPED_TRACE(::testing::Message() << c);
    const std::vector<float> whole = attend(gpu(), c, [](PagedRun& run) { run.run_whole(); });
    for (const int chunk : is_emulated() ? std::vector{7, 32} : std::vector{7, 64, 100, 512}) {
      EXPECT_TRUE(same_bits(whole, attend(gpu(), c, [&](PagedRun& run) { run.run_in_chunks(chunk); })))
          << "chunks of " << chunk;
    }
  }
}

TEST_F(Determinism, decoding_gives_the_bits_of_prefill) {
  for (const PagedCase& c : attention_cases()) {
    SCOPED_TRACE(::testing::Message() << c);
    const std::vector<float> whole = attend(gpu(), c, [](PagedRun& run) { run.run_whole(); });
    EXPECT_TRUE(same_bits(whole, attend(gpu(), c, [](PagedRun& run) { run.run_and_decode(5); })));
  }
}

TEST_F(Determinism, a_sequence_in_a_batch_has_the_bits_of_one_alone) {
  for (const PagedCase& c : attention_cases()) {
    SCOPED_TRACE(::testing::Message() << c);
    const std::vector<float> together = attend(gpu(), c, [](PagedRun& run) { run.run_and_decode(2); });
    const std::vector<float> alone = attend(gpu(), c, [&](PagedRun& run) {
      for (int s = 0; s < static_cast<int>(c.lengths.size()); ++s) {
        const int length = c.lengths[static_cast<size_t>(s)], prompt = std::max(0, length - 2);
        if (prompt) run.step({{s, 0, prompt}});
        for (int p = prompt; p < length; ++p) run.step({{s, p, p + 1}});
      }
    });
    EXPECT_TRUE(same_bits(together, alone));
  }
}

TEST_F(Determinism, a_row_is_sampled_alike_in_a_batch_and_alone) {
  const int vocab = is_emulated() ? 3000 : 128256, num_rows = is_emulated() ? 12 : 100;
  const std::vector<float> logits = random_values(int64_t{vocab} * num_rows, 8, 3);
  SampleBatch batch;
  batch.vocab_size = vocab;
  for (int r = 0; r < num_rows; ++r) {
    batch.rows.push_back({.temperature = 0.8f,
                          .top_p = r % 2 ? 1 : 0.9f,
                          .top_k = r % 3 ? 0 : 40,
                          .key = 77,
                          .counter = uint64_t(r),
                          .num_top = 2});
  }
  batch.max_top = 2;
  SampleResult all, alone;
  gpu()->sample(gpu().floats(logits, vocab), batch, all);
  for (int r = 0; r < num_rows; r += 5) {
    SampleBatch one = batch;
    one.rows = {batch.rows[static_cast<size_t>(r)]};
    gpu()->sample(gpu().floats({logits.begin() + int64_t{r} * vocab, logits.begin() + int64_t{r + 1} * vocab}, vocab), one,
                  alone);
    EXPECT_EQ(alone.rows[0].token, all.rows[static_cast<size_t>(r)].token);
    EXPECT_TRUE(same_bits({alone.rows[0].logprob}, {all.rows[static_cast<size_t>(r)].logprob}));
  }
}

/// A body of several kernels, replayed on new inputs in the same memory.
TEST_F(Determinism, replayed_steps_give_the_bits_of_direct_ones) {
  constexpr int64_t kRows = 4, kCols = 256;
  Machine& machine = gpu();
  const Weight weight = pack(machine, {StoredMatrix(WeightFormat::q8_0, kCols, kCols, 3)});
  const float* ones = machine.array(std::vector<float>(kCols, 1.0f));
  const Tensor x = machine.activations(std::vector<float>(kRows * kCols), kCols),
               y = machine.empty(machine.act(), kRows, kCols);
  void* workspace = machine.memory(machine->traits().linear_workspace(kRows, kCols, kCols, weight.part_formats));
  const auto body = [&] {
    machine->norm(y, x, {NormKind::rms, ones, nullptr, 1e-5f});
    machine->linear(x, y, weight, nullptr, workspace);
    machine->add(x, y, 0.5f);
  };
  for (unsigned seed = 0; seed < 5; ++seed) {  // run, recorded, replayed
    const std::vector<float> values = random_values(kRows * kCols, seed);
    machine.write(x, values);
    body();
    const std::vector<float> direct = machine.read(x);
    machine.write(x, values);
    machine->run_captured(17, body);
    EXPECT_TRUE(same_bits(direct, machine.read(x))) << "run " << seed;
  }
}

}  // namespace
}  // namespace pagoda::device_test

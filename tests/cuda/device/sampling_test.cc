// Sampling draws exactly the CPU's tokens, logprobs and ranks from the same logits; drawn tokens are fed to the next step.
#include <limits>

#include "device_support.h"

namespace pagoda::device_test {
namespace {

class Sampling : public DeviceTest {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Rows {
  SampleBatch batch;
  std::vector<float> logits;  // [R, vocab]
};

/// Rows of every kind of parameter, with ties and tokens that cannot be drawn.
class RandomRows {
 public:
  explicit RandomRows(unsigned seed) : random_(seed) {}

  Rows make(int vocab, int num_rows) {
    Rows rows;
    rows.batch.vocab_size = vocab;
    for (int r = 0; r < num_rows; ++r) {
      add_logits(rows.logits, vocab);
      add_row(rows.batch);
    }
    return rows;
  }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool once_in(int n) { return below(n) == 0; }
  float one_of(std::initializer_list<float> values) { return values.begin()[below(static_cast<int>(values.size()))]; }

  void add_logits(std::vector<float>& logits, int vocab) {
    std::normal_distribution<float> normal(0, one_of({0.01f, 2, 4, 30}));
    const int kind = below(6);
    for (int i = 0; i < vocab; ++i) {
      float x = normal(random_);
      if (kind == 1) x = std::round(2 * x) / 2;
      if (kind == 2) x = 7;
      if (kind == 3 && once_in(3)) x = -kInfinity;
      if (kind == 4 && i % 100 < 95) x -= 12;
      logits.push_back(x);
    }
  }

  void add_row(SampleBatch& batch) {
    const int vocab = batch.vocab_size;
    SampleRow row;
    row.key = random_() | uint64_t{random_()} << 32;
    row.counter = static_cast<uint64_t>(below(8192));
    row.temperature = once_in(4) ? 0 : one_of({0.1f, 0.7f, 1, 1.3f, 100});
    if (once_in(2)) row.top_k = static_cast<int32_t>(one_of({1, 2, 20, 50, 400, 1e6f}));
    if (once_in(2)) row.top_p = one_of({1e-9f, 0.1f, 0.5f, 0.95f, 0.999f});
    if (once_in(4)) row.min_p = one_of({0.001f, 0.05f, 1});
    row.log_min_p = row.min_p > 0 ? std::log(row.min_p) : 0;
    row.num_top = once_in(2) ? -1 : std::min(vocab, static_cast<int>(one_of({0, 1, 5, 20})));
    batch.max_top = std::max(batch.max_top, row.num_top);
    if (once_in(8)) row.forced_token = below(vocab);
    add_lists(batch, row);
    batch.rows.push_back(row);
  }

  void add_lists(SampleBatch& batch, SampleRow& row) {
    const int vocab = batch.vocab_size;
    row.edits_begin = row.edits_end = static_cast<int32_t>(batch.edits.size());
    row.counts_begin = row.counts_end = static_cast<int32_t>(batch.counts.size());
    if (once_in(3)) {
      for (int i = below(9); i >= 0; --i)
        batch.edits.push_back({below(vocab), once_in(3) ? -kInfinity : one_of({-3, 0.5f, 100})});
      row.edits_end = static_cast<int32_t>(batch.edits.size());
    }
    if (once_in(3)) {
      row.repetition_penalty = one_of({1, 1.2f, 0.8f});
      row.frequency_penalty = one_of({0, 0.3f, -1});
      row.presence_penalty = one_of({0, 0.9f});
      for (int token = below(5); token < vocab; token += 1 + below(std::max(2, vocab / 8)))
        batch.counts.push_back({token, below(3)});
      row.counts_end = static_cast<int32_t>(batch.counts.size());
    }
    if (once_in(4)) {
      row.mask = static_cast<int32_t>(batch.masks.size()) / batch.mask_words();
      for (int i = 0; i < batch.mask_words(); ++i) batch.masks.push_back(static_cast<uint32_t>(random_()) | 1u);
    }
  }

  std::mt19937 random_;
};

SampleResult sample(Machine& machine, const Rows& rows) {
  SampleResult result;
  machine->sample(machine.floats(rows.logits, rows.batch.vocab_size), rows.batch, result);
  return result;
}

void expect_equal(const SampleResult& expected, const SampleResult& got) {
  ASSERT_EQ(expected.rows.size(), got.rows.size());
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    const SampledRow &a = expected.rows[r], &b = got.rows[r];
    ASSERT_EQ(a.invalid, b.invalid) << "row " << r;
    if (a.invalid) continue;
    EXPECT_EQ(a.token, b.token) << "row " << r;
    EXPECT_TRUE(same_bits({a.logprob}, {b.logprob})) << "row " << r << ": " << a.logprob << " and " << b.logprob;
    EXPECT_EQ(a.rank, b.rank) << "row " << r;
  }
  EXPECT_EQ(expected.top_tokens, got.top_tokens);
  EXPECT_TRUE(same_bits(expected.top_logprobs, got.top_logprobs));
}

TEST_F(Sampling, every_row_is_the_cpus) {
  std::vector<std::pair<int, int>> sizes = {{7, 20}, {1000, 30}, {5003, 12}};
  if (!is_emulated()) sizes.insert(sizes.end(), {{128256, 64}, {151936, 256}, {49152, 1}, {32001, 17}});
  unsigned seed = 1;
  for (const auto& [vocab, num_rows] : sizes) {
    SCOPED_TRACE(::testing::Message() << num_rows << " rows of " << vocab);
    const Rows rows = RandomRows(seed++).make(vocab, num_rows);
    expect_equal(sample(cpu(), rows), sample(gpu(), rows));
    cpu().clear();
    gpu().clear();
  }
}

TEST_F(Sampling, unusable_logits_are_told) {
  Rows rows;
  rows.batch.vocab_size = 64;
  rows.batch.rows.assign(4, SampleRow{});
  rows.logits = random_values(4 * 64, 1);
  rows.logits[3] = std::numeric_limits<float>::quiet_NaN();
  rows.logits[64 + 5] = kInfinity;
  std::fill(rows.logits.begin() + 128, rows.logits.begin() + 192, -kInfinity);
  const SampleResult expected = sample(cpu(), rows), got = sample(gpu(), rows);
  expect_equal(expected, got);
  EXPECT_TRUE(got.rows[0].invalid && got.rows[1].invalid && got.rows[2].invalid);
  EXPECT_FALSE(got.rows[3].invalid);
}

TEST_F(Sampling, two_steps_in_flight_are_collected_in_order) {
  ASSERT_EQ(gpu()->traits().max_steps_in_flight, 2);
  const Rows first = RandomRows(50).make(500, 6), second = RandomRows(51).make(500, 9);
  SampleResult a, b;
  for (int round = 0; round < 3; ++round) {
    gpu()->start_sampling(gpu().floats(first.logits, 500), first.batch);
    gpu()->start_sampling(gpu().floats(second.logits, 500), second.batch);
    gpu()->collect_samples(a);
    gpu()->collect_samples(b);
    expect_equal(sample(cpu(), first), a);
    expect_equal(sample(cpu(), second), b);
  }
}

TEST_F(Sampling, drawn_tokens_are_fed_to_the_next_step) {
  Rows rows{{}, random_values(5 * 300, 52, 2)};
  rows.batch.vocab_size = 300;
  for (uint64_t key = 1; key <= 5; ++key) rows.batch.rows.push_back({.key = key});
  const std::vector<int32_t> ids = {1000, 1001, 1002, 1003, 1004, 1005}, sources = {-1, 4, 0, -1, 2, 2};
  const auto feed = [&](Machine& machine) {
    int32_t* device_ids = machine.array(ids);
    const int32_t* device_sources = machine.array(sources);
    machine->start_sampling(machine.floats(rows.logits, 300), rows.batch);
    machine->feed_tokens(device_ids, device_sources, std::ssize(ids));  // before the tokens are known here
    SampleResult result;
    machine->collect_samples(result);
    std::vector<int32_t> fed = machine.read(device_ids, std::ssize(ids));
    for (size_t t = 0; t < ids.size(); ++t) {
      const int32_t drawn = sources[t] < 0 ? ids[t] : result.rows[static_cast<size_t>(sources[t])].token;
      EXPECT_EQ(fed[t], drawn) << "token " << t;
    }
    return fed;
  };
  EXPECT_EQ(feed(cpu()), feed(gpu()));
}

}  // namespace
}  // namespace pagoda::device_test

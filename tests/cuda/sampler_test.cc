// The fused sampler against a reference that sorts, and against the CPU's sampler: tokens, ranks, logprobs and faults to the
// bit.
#include "cuda/sampler.h"

#include <gtest/gtest.h>

#include <memory>

#include "backend/backend.h"
#include "sampler_support.h"

namespace pagoda::cuda {
namespace {

TEST(Sampler, ten_thousand_random_rows_equal_a_reference_that_sorts) {
  RandomRows random(1);
  TestSampler sampler;
  int rows = 0;
  for (int i = 0; rows < 10000; ++i) {
    const int vocab = i % 8 == 7 ? 1000 + random.below(2001) : 50 + random.below(600);
    const SampleCase sample = random.make(vocab, 400);
    rows += 400;
    SCOPED_TRACE(testing::Message() << "batch " << i << " of " << vocab << " tokens");
    expect_equal(reference(sample), sampler.run(sample), sample.batch);
    if (HasFatalFailure()) return;
  }
}

TEST(Sampler, vocabularies_of_few_tokens_are_sampled) {
  RandomRows random(2);
  TestSampler sampler;
  for (int vocab = 1; vocab < 34; ++vocab) {
    const SampleCase sample = random.make(vocab, 20);
    SCOPED_TRACE(testing::Message() << vocab << " tokens");
    expect_equal(reference(sample), sampler.run(sample), sample.batch);
    if (HasFatalFailure()) return;
  }
}

TEST(Sampler, what_lies_behind_aligned_rows_is_not_sampled) {
  RandomRows random(11);
  TestSampler sampler;
  for (int vocab : {1021, 1022, 1023, 2047}) {
    SampleCase sample;
    do {
      sample = random.make(vocab, 30);  // NaNs between the rows
    } while (sample.stride % 4 || sample.offset || reinterpret_cast<uintptr_t>(sample.logits.data()) % 16);
    SCOPED_TRACE(testing::Message() << vocab << " tokens");
    expect_equal(reference(sample), sampler.run(sample), sample.batch);
    if (HasFatalFailure()) return;
  }
}

void expect_like_cpu(int vocab, int rows, unsigned seed) {
  RandomRows random(seed);
  SampleCase sample = random.make(vocab, rows);
  const std::unique_ptr<Backend> cpu = make_cpu_backend({});
  SampleResult expected;
  cpu->sample(sample.tensor(), sample.batch, expected);
  TestSampler sampler;
  expect_equal(expected, sampler.run(sample), sample.batch);
}

TEST(Sampler, rows_equal_the_cpu_backends) {
  for (unsigned seed = 0; seed < 6 && !HasFatalFailure(); ++seed) expect_like_cpu(700 + 331 * static_cast<int>(seed), 60, seed);
}
TEST(Sampler, rows_of_a_small_models_vocabulary_equal_the_cpu_backends) { expect_like_cpu(49152, 60, 7); }
TEST(Sampler, rows_of_a_large_models_vocabulary_equal_the_cpu_backends) { expect_like_cpu(151936, 24, 8); }

TEST(Sampler, every_schedule_and_every_number_of_blocks_gives_the_same) {
  RandomRows random(3);
  TestSampler sampler;
  for (int vocab : {9001, 36000}) {
    const SampleCase sample = random.make(vocab, 20);
    const SampleResult expected = reference(sample);
    for (unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      SCOPED_TRACE(testing::Message() << vocab << " tokens, schedule " << seed);
      const Queue queue = test_queue(seed % 2 ? 132 : 1 + static_cast<int>(seed), seed % 4 < 2 ? 90 : 80);
      expect_equal(expected, sampler.run(sample, queue), sample.batch);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Sampler, a_row_does_not_depend_on_its_batch) {
  RandomRows random(4);
  TestSampler sampler;
  const SampleCase all = random.make(2500, 60);
  const SampleResult together = sampler.run(all);
  for (size_t r = 0; r < all.batch.rows.size(); ++r) {
    SampleCase one = all;
    one.batch.rows = {all.batch.rows[r]};
    one.offset += static_cast<int64_t>(r) * all.stride;
    const SampleResult alone = sampler.run(one);
    EXPECT_EQ(alone.rows[0].token, together.rows[r].token);
    EXPECT_EQ(std::memcmp(&alone.rows[0].logprob, &together.rows[r].logprob, sizeof(float)), 0);
    EXPECT_EQ(alone.rows[0].rank, together.rows[r].rank);
    EXPECT_EQ(alone.rows[0].invalid, together.rows[r].invalid);
  }
}

TEST(Sampler, twenty_thousand_draws_follow_the_distribution) {
  constexpr int kVocab = 12, kDraws = 20000;
  const std::vector<float> logits = {0, 1, -1, 2, 0.5f, -3, 1.5f, 0, -0.5f, 2.5f, 1, -2};
  SampleCase sample;
  sample.stride = sample.batch.vocab_size = kVocab;
  for (int i = 0; i < kDraws; ++i) {
    sample.logits.insert(sample.logits.end(), logits.begin(), logits.end());
    SampleRow row;
    row.temperature = 1.3f;
    row.key = 99;
    row.counter = static_cast<uint64_t>(i);
    sample.batch.rows.push_back(row);
  }
  TestSampler sampler;
  std::vector<int> counts(kVocab);
  for (const SampledRow& row : sampler.run(sample).rows) ++counts.at(static_cast<size_t>(row.token));
  double total = 0, chi_square = 0;
  for (float x : logits) total += std::exp(x / 1.3);
  for (size_t i = 0; i < kVocab; ++i) {
    const double expected = kDraws * std::exp(logits[i] / 1.3) / total;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 31.3);  // 11 degrees of freedom: one in a thousand is larger
}

TEST(Sampler, a_launch_may_come_before_the_last_one_is_collected) {
  RandomRows random(5);
  TestSampler sampler;
  std::vector<SampleCase> steps;
  for (int i = 0; i < 7; ++i) steps.push_back(random.make(130 + 200 * i, i == 4 ? 600 : 40));  // one of several parts
  std::vector<SampleCase> used = steps;
  const auto launch = [&](size_t i) {
    SampleBatch batch = used[i].batch;
    sampler.sampler.launch(test_queue(), used[i].tensor(), batch);
    batch.clear();  // the caller builds the next step's batch in the same memory
    batch.rows.resize(1);
  };
  launch(0);
  for (size_t i = 0; i < steps.size(); ++i) {
    if (i + 1 < steps.size()) {
      launch(i + 1);
      EXPECT_THROW(launch(i + 1), InternalError) << "there are two on their way";
    }
    SampleResult result;
    sampler.sampler.collect(result);
    SCOPED_TRACE(testing::Message() << "step " << i);
    expect_equal(reference(steps[i]), result, steps[i].batch);
    if (HasFatalFailure()) return;
  }
  SampleResult result;
  EXPECT_THROW(sampler.sampler.collect(result), InternalError);
}

SampleRow row_with(float temperature, int num_top, int forced = -1) {
  SampleRow row;
  row.temperature = temperature;
  row.num_top = num_top;
  row.forced_token = forced;
  return row;
}

TEST(Sampler, faults_of_rows_are_reported_and_spare_their_neighbours) {
  constexpr int kVocab = 1030;
  SampleCase sample;
  sample.stride = sample.batch.vocab_size = kVocab;
  sample.batch.max_top = 2;
  for (int kind = 0; kind < 10; ++kind) {
    for (SampleRow row : {row_with(0, -1), row_with(1, 2), row_with(0.5f, 0, 3)}) {
      std::vector<float> x(kVocab, 0.5f);
      x[1029] = 1;
      if (kind == 1) x[1000] = std::nanf("");
      if (kind == 2) x[1000] = -std::nanf("");
      if (kind == 3) x[1000] = kInfinity;
      if (kind == 4) x[1000] = -kInfinity;
      if (kind == 5) std::fill(x.begin(), x.end(), -kInfinity);
      if (kind == 6) std::fill(x.begin(), x.end(), std::nanf(""));
      row.edits_begin = static_cast<int32_t>(sample.batch.edits.size());
      for (int token = 0; kind == 7 && token < kVocab; ++token) sample.batch.edits.push_back({token, -kInfinity});
      if (kind == 8) x[7] = 3e38f, sample.batch.edits.push_back({7, 3e38f});  // overflows, which is no fault of the logits
      if (kind == 9) x[7] = kInfinity, sample.batch.edits.push_back({7, -kInfinity});  // does not hide what was there
      row.edits_end = static_cast<int32_t>(sample.batch.edits.size());
      sample.logits.insert(sample.logits.end(), x.begin(), x.end());
      sample.batch.rows.push_back(row);
    }
  }
  TestSampler sampler;
  const SampleResult result = sampler.run(sample);
  expect_equal(reference(sample), result, sample.batch);
  for (size_t r = 0; r < result.rows.size(); ++r) {
    const size_t kind = r / 3;
    const bool forced = r % 3 == 2;
    const bool faulty = kind == 1 || kind == 2 || kind == 3 || kind == 5 || kind == 6 || kind == 9 || (kind == 7 && !forced);
    EXPECT_EQ(result.rows[r].invalid, faulty) << "kind " << kind;
  }
}

TEST(Sampler, a_batch_whose_lists_do_not_fit_is_sampled_in_parts) {
  RandomRows random(6);
  TestSampler sampler;
  SampleCase sample = random.make(300, 560);
  for (size_t r = 100; r < 200; ++r) {
    SampleRow& row = sample.batch.rows[r];
    row.edits_begin = static_cast<int32_t>(sample.batch.edits.size());
    for (int i = 0; i < 14000; ++i) {
      const float bias = random.once_in(2000) ? -kInfinity : static_cast<float>(random.below(200) - 100) / 100;
      sample.batch.edits.push_back({random.below(300), bias});
    }
    row.edits_end = static_cast<int32_t>(sample.batch.edits.size());
  }
  ASSERT_GT(sample.batch.edits.size() * sizeof(LogitEdit), 2 * SampleLayout(300).list_bytes);
  expect_equal(reference(sample), sampler.run(sample), sample.batch);
  sample.batch.rows[7].edits_begin = 0;
  sample.batch.rows[7].edits_end = static_cast<int32_t>(sample.batch.edits.size());
  sample.batch.rows[7].forced_token = -1;
  EXPECT_THROW(sampler.run(sample), InvalidArgument) << "one row's lists are too long";
  sample = random.make(300, 5);
  expect_equal(reference(sample), sampler.run(sample), sample.batch);
}

TEST(Sampler, the_likely_tokens_of_a_row_fit_in_its_list) {
  constexpr int kVocab = 32000;
  std::mt19937 random(9);
  std::normal_distribution<float> normal(0, 2);
  SampleCase sample;
  sample.stride = sample.batch.vocab_size = kVocab;
  for (int i = 0; i < 20; ++i) {
    for (int token = 0; token < kVocab; ++token) {
      sample.logits.push_back(normal(random) + (token % 1000 == 0 ? static_cast<float>(10 + i % 5) : 0.0f));
    }
    SampleRow row;
    row.top_p = i % 2 ? 0.95f : 1;
    row.top_k = i % 2 && i % 3 ? 0 : 50;
    row.counter = static_cast<uint64_t>(i);
    sample.batch.rows.push_back(row);
  }
  Buffer memory;
  Sampler sampler([&](size_t bytes) { return memory = TestSampler::allocate(bytes); });
  sampler.launch(test_queue(), sample.tensor(), sample.batch);
  SampleResult result;
  sampler.collect(result);
  const SampleLayout layout(kVocab);
  const auto* states = reinterpret_cast<const SampleState*>(static_cast<std::byte*>(memory.get()) + layout.states);
  for (size_t i = 0; i < sample.batch.rows.size(); ++i) {
    EXPECT_EQ(states[i].flags & (kRowLists | kRowOverflows), kRowLists) << "row " << i << ", list of " << states[i].list_size;
    EXPECT_LT(states[i].list_size, 1500u);
  }
}

TEST(Sampler, drawn_tokens_stay_on_the_device_for_the_next_step) {
  RandomRows random(10);
  TestSampler sampler;
  for (int vocab : {900, 60, 2000}) {
    SampleCase sample = random.make(vocab, 300);
    std::vector<int32_t> ids(400, -7), sources;
    for (int i = 0; i < 400; ++i) sources.push_back(i % 4 ? random.below(300) : -1);
    sampler.sampler.launch(test_queue(), sample.tensor(), sample.batch);
    sampler.sampler.feed(test_queue(), ids.data(), sources.data(), 400);
    SampleResult result;
    sampler.sampler.collect(result);
    synchronize();
    for (size_t i = 0; i < ids.size(); ++i) {
      const SampledRow* row = sources[i] < 0 ? nullptr : &result.rows[static_cast<size_t>(sources[i])];
      EXPECT_EQ(ids[i], !row ? -7 : row->invalid ? 0 : row->token) << "of " << vocab << " tokens";
    }
  }
}

TEST(Sampler, an_empty_batch_is_sampled) {
  TestSampler sampler;
  SampleCase sample;
  sample.stride = sample.batch.vocab_size = 100;
  EXPECT_TRUE(sampler.run(sample).rows.empty());
}

TEST(Sampler, memory_is_taken_once_and_depends_on_the_vocabulary_only) {
  std::vector<size_t> taken;
  Sampler sampler([&](size_t bytes) {
    taken.push_back(bytes);
    return TestSampler::allocate(bytes);
  });
  RandomRows random(7);
  for (int rows : {1, 3, 300}) {
    SampleCase sample = random.make(500, rows);
    SampleResult result;
    sampler.launch(test_queue(), sample.tensor(), sample.batch);
    sampler.collect(result);
  }
  EXPECT_EQ(taken, std::vector<size_t>{Sampler::device_bytes(500)});
  EXPECT_LT(Sampler::device_bytes(151936), size_t{24} << 20);
}

}  // namespace
}  // namespace pagoda::cuda

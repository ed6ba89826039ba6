// The sampler's operations one by one: softmax with temperature, top-k/top-p filtering, penalties, and the searches under them.
#include <gtest/gtest.h>

#include "cuda/draw.cuh"
#include "cuda/sample_list.cuh"
#include "cuda/softmax.h"
#include "cuda/top_k_top_p.h"
#include "sampler_support.h"

namespace pagoda::cuda {
namespace {

constexpr int kVocabs[] = {1, 50, 1023, 1024, 3000, 20000};

TEST(Softmax, probabilities_are_those_of_the_quotients) {
  RandomRows random(1);
  std::mt19937 numbers(1);
  for (int vocab : kVocabs) {
    const int rows = 3;
    HostTensor logits = HostTensor::random(DType::f32, rows, vocab, numbers, 4), out(DType::f32, rows, vocab, vocab + 5);
    const std::vector<float> temperatures = {0.3f, 1, 7};
    softmax(test_queue(), out.view(), logits.view(), temperatures.data());
    synchronize();
    for (int r = 0; r < rows; ++r) {
      double max = -1e9, total = 0, sum = 0;
      for (int i = 0; i < vocab; ++i) max = std::max(max, static_cast<double>(logits.get(r, i)) / temperatures[r]);
      for (int i = 0; i < vocab; ++i) total += std::exp(static_cast<double>(logits.get(r, i)) / temperatures[r] - max);
      for (int i = 0; i < vocab; ++i) {
        const double expected = std::exp(static_cast<double>(logits.get(r, i)) / temperatures[r] - max) / total;
        ASSERT_NEAR(out.get(r, i), expected, 1e-5 * expected + 1e-11) << "row " << r << " token " << i << " of " << vocab;
        sum += static_cast<double>(out.get(r, i));
      }
      EXPECT_NEAR(sum, 1, 1e-6);
    }
  }
}

TEST(Softmax, probabilities_have_the_same_bits_in_any_batch_and_order_of_threads) {
  std::mt19937 numbers(2);
  HostTensor logits = HostTensor::random(DType::f32, 4, 5003, numbers, 4), expected(DType::f32, 4, 5003);
  const std::vector<float> temperatures = {0.5f, 1, 1.5f, 2};
  softmax(test_queue(), expected.view(), logits.view(), temperatures.data());
  synchronize();
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    HostTensor copy = logits;  // in place, one row at a time
    for (int r = 0; r < 4; ++r) {
      const Tensor row{copy.view().row<float>(r), DType::f32, {1, 5003}, 5003};
      softmax(test_queue(), row, row, temperatures.data() + r);
      synchronize();
    }
    EXPECT_TRUE(copy == expected) << "schedule " << seed;
  }
}

TEST(TopKTopP, what_is_dropped_is_what_a_sort_drops) {
  RandomRows random(3);
  for (int vocab : kVocabs) {
    const int rows = vocab > 4000 ? 6 : 40;
    std::vector<float> logits(static_cast<size_t>(rows) * vocab);
    std::vector<FilterParams> params;
    for (int r = 0; r < rows; ++r) {
      do {
        random.fill_logits(logits.data() + static_cast<size_t>(r) * vocab, vocab);
      } while (*std::max_element(logits.begin() + r * vocab, logits.begin() + (r + 1) * vocab) == -kInfinity);
      params.push_back({random.one_of({0, 1, 2, 7, 60, vocab / 2, vocab - 1, vocab, vocab + 3}),
                        random.one_of({1e-9f, 0.2f, 0.9f, 0.99f, 1.0f})});
    }
    std::vector<float> expected = logits;
    for (int r = 0; r < rows; ++r) {
      const auto begin = logits.begin() + r * vocab, end = begin + vocab;
      std::vector<float> sorted(begin, end);
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      const float cut = reference_cut(sorted, params[r].top_k, params[r].top_p, -kInfinity);
      std::replace_if(
          expected.begin() + r * vocab, expected.begin() + (r + 1) * vocab, [&](float x) { return x < cut; }, -kInfinity);
    }
    for (unsigned seed : kSchedules) {
      if (vocab > 4000 && seed > 3) break;
      const ScheduleScope scope(seed);
      std::vector<float> filtered = logits;
      filter_top_k_top_p(test_queue(), Tensor::dense(filtered.data(), DType::f32, {rows, vocab}), params.data());
      synchronize();
      for (size_t i = 0; i < filtered.size(); ++i) {
        ASSERT_EQ(filtered[i], expected[i])
            << "schedule " << seed << " row " << i / vocab << " token " << i % vocab << " of " << vocab << " top_k "
            << params[i / vocab].top_k << " top_p " << params[i / vocab].top_p;
      }
    }
  }
}

/// Rows with edits and penalties only, as the penalty kernels take them.
struct PenaltyCase {
  SampleCase sample;
  std::vector<SampleTask> tasks;
  std::vector<SampleState> states;
  std::vector<float> saved;
  SampleWork work;

  explicit PenaltyCase(const SampleCase& made) : sample(made), states(made.batch.rows.size()) {
    SampleBatch& batch = sample.batch;
    saved.resize(batch.edits.size() + batch.counts.size());
    for (SampleRow& row : batch.rows) {
      std::stable_sort(batch.edits.begin() + row.edits_begin, batch.edits.begin() + row.edits_end,
                       [](const LogitEdit& a, const LogitEdit& b) { return a.token < b.token; });
      row.mask = -1;
      row.temperature = 1;
      row.num_top = static_cast<int32_t>(tasks.size() % 3) - 1;  // -1: not undone
      tasks.push_back({row});
    }
    work.logits = sample.logits.data() + sample.offset;
    work.stride = sample.stride;
    work.vocab = batch.vocab_size;
    work.num_rows = static_cast<int>(tasks.size());
    work.num_chunks = sample_chunks(work.vocab);
    work.tasks = tasks.data();
    work.states = states.data();
    work.edits = batch.edits.data();
    work.counts = batch.counts.data();
    work.edits_saved = saved.data();
    work.counts_saved = saved.data() + batch.edits.size();
  }
};

TEST(Penalties, logits_are_those_of_the_formulas_and_come_back_when_undone) {
  RandomRows random(4);
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    for (int vocab : {50, 2999}) {
      PenaltyCase made(random.make(vocab, 40));
      const SampleCase before = made.sample;
      apply_penalties(test_queue(), made.work);
      synchronize();
      for (size_t r = 0; r < made.tasks.size(); ++r) {
        const std::vector<float> expected = adjusted_logits(before.row(r), before.batch, before.batch.rows[r]);
        ASSERT_EQ(std::memcmp(expected.data(), made.sample.row(r), expected.size() * sizeof(float)), 0) << "row " << r;
      }
      undo_penalties(test_queue(), made.work);
      synchronize();
      for (size_t r = 0; r < made.tasks.size(); ++r) {
        const auto& row = made.tasks[r].row;
        const std::vector<float> adjusted = adjusted_logits(before.row(r), before.batch, before.batch.rows[r]);
        const float* expected = row.num_top >= 0 ? before.row(r) : adjusted.data();
        ASSERT_EQ(std::memcmp(expected, made.sample.row(r), static_cast<size_t>(vocab) * sizeof(float)), 0) << "row " << r;
      }
    }
  }
}

TEST(Penalties, bans_biases_and_each_penalty_are_applied_in_their_order) {
  SampleCase sample;
  sample.batch.vocab_size = 8;
  sample.stride = 8;
  sample.logits = {1, -1, 2, 3, 4, 5, 6, 7};
  SampleRow row;
  row.repetition_penalty = 2;
  row.frequency_penalty = 0.5f;
  row.presence_penalty = 0.25f;
  sample.batch.edits = {{2, 1}, {2, 3}, {3, -kInfinity}, {3, 100}};
  row.edits_end = 4;
  sample.batch.counts = {{0, 0}, {1, 1}, {2, 2}, {3, 1}};
  row.counts_end = 4;
  sample.batch.rows = {row};
  PenaltyCase made(sample);
  apply_penalties(test_queue(), made.work);
  synchronize();
  EXPECT_EQ(made.sample.logits, (std::vector<float>{0.5f, -2.75f, 1.75f, -kInfinity, 4, 5, 6, 7}));
}

TEST(Penalties, infinities_that_they_make_are_told_from_those_that_were_there) {
  SampleCase sample;
  sample.batch.vocab_size = 4;
  sample.stride = 4;
  sample.logits = {3e38f, kInfinity, std::nanf(""), 3e38f};
  SampleRow row;
  row.repetition_penalty = 0.1f;
  sample.batch.edits = {{1, -kInfinity}, {3, 3e38f}};  // the first makes a NaN
  sample.batch.counts = {{0, 0}, {3, 0}};
  row.edits_end = 2, row.counts_end = 2;
  sample.batch.rows = {row};
  PenaltyCase made(sample);
  apply_penalties(test_queue(), made.work);
  synchronize();
  EXPECT_EQ(made.states[0].bad_added, 2u);
}

__global__ void divide_kernel(float* x, int64_t n, float divisor) {
  gpu::wait_for_grid();
  const Divisor by(divisor);
  for (int64_t i = 4 * (blockIdx.x * blockDim.x + threadIdx.x); i < n; i += 4 * gridDim.x * blockDim.x) {
    float values[4] = {x[i], x[i + 1], x[i + 2], x[i + 3]};
    by.divide(values);
    for (int j = 0; j < 4; ++j) x[i + j] = values[j];
  }
}

TEST(Divisor, quotients_have_the_bits_of_the_division) {
  std::mt19937 random(8);
  const auto any = [&](unsigned exponents,
                       unsigned middle) {  // a float near 1, or one of any size; long mantissas are frequent
    const uint32_t exponent = 127 - middle + random() % exponents, mantissa = random() % 3 ? random() : ~(random() % 9);
    return std::bit_cast<float>(static_cast<uint32_t>(random() % 2) << 31 | exponent << 23 | (mantissa & 0x7fffffu));
  };
  for (int i = 0; i < 3000; ++i) {
    const float divisor = std::abs(i % 10 ? any(4, 2) : any(254, 126));
    std::vector<float> x;
    for (int j = 0; j < 512; ++j) x.push_back(j < 448 ? any(8, 4) : j < 500 ? any(254, 126) : 0);
    if (i % 3 == 0) x[500] = -kInfinity, x[501] = -0.0f, x[502] = 1e-44f, x[503] = std::numeric_limits<float>::max();
    std::vector<float> expected = x;
    for (float& value : expected) value /= divisor;
    launch(test_queue(), {1, 32}, "divide", divide_kernel, x.data(), int64_t{512}, divisor);
    synchronize();
    ASSERT_EQ(std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)), 0) << "by " << divisor;
  }
}

__global__ void draw_kernel(SampleWork work, Mass* sums, int32_t* tokens, float threshold, float max) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const int r = static_cast<int>(blockIdx.x);
  const RowView row = adjusted_row(work, r);
  sum_chunks(row, max, threshold, sums + r * work.num_chunks);
  const SampleRow& params = work.tasks[r].row;
  const int32_t by_chunk = draw_from_chunks(row, params, max, threshold, sums + r * work.num_chunks, space);
  const ListSource list{work.list + r * work.vocab, work.vocab, 0};
  const int32_t by_list = draw_from_list(list, work.vocab, params, max, float_key(threshold), space);
  if (threadIdx.x == 0) tokens[2 * r] = by_chunk, tokens[2 * r + 1] = by_list;
}

TEST(Draw, a_target_on_the_border_of_two_tokens_draws_the_second) {
  constexpr int kVocab = 2100, kRows = 400;
  constexpr float kMax = 100;  // so far up that masses are 0 to 5, and one draw in a few falls on a border
  std::mt19937 random(7);
  std::vector<float> logits;
  std::vector<SampleTask> tasks(kRows);
  std::vector<Mass> list, sums(kRows * 3);
  for (int r = 0; r < kRows; ++r) {
    for (int token = 0; token < kVocab; ++token) {
      const float depth = random() % 400 == 0 || token == 5 ? 24.7f + static_cast<float>(random() % 5) / 2 : 40.0f;
      logits.push_back(kMax - depth);
    }
    for (int token = kVocab - 1; token >= 0; --token) {
      list.push_back(list_entry(float_key(logits[static_cast<size_t>(r * kVocab + token)]), token));
    }
    tasks[static_cast<size_t>(r)].row.counter = random();
    logits[static_cast<size_t>(r * kVocab + 5)] = kMax - 24.7f;
    list[list.size() - 6] = list_entry(float_key(kMax - 24.7f), 5);
  }
  SampleWork work;
  work.logits = logits.data();
  work.stride = work.vocab = kVocab;
  work.num_chunks = sample_chunks(kVocab);
  work.tasks = tasks.data();
  work.list = list.data();
  const float cut = kMax - 25.8f;
  std::vector<int32_t> tokens(2 * kRows);
  launch(test_queue(), {kRows, 64, sizeof(BlockSpace)}, "draw", draw_kernel, work, sums.data(), tokens.data(), cut, kMax);
  synchronize();
  for (int r = 0; r < kRows; ++r) {
    const float* x = logits.data() + r * kVocab;
    const auto mass = [&](int token) { return x[token] >= cut ? fixed_mass(x[token], kMax) : 0; };
    uint64_t total = 0, below = 0;
    for (int token = 0; token < kVocab; ++token) total += mass(token);
    const SampleRow& row = tasks[static_cast<size_t>(r)].row;
    const uint64_t target = mul_high(philox(row.key, row.counter), total);
    int token = 0;
    while ((below += mass(token)) <= target) ++token;
    ASSERT_EQ(tokens[static_cast<size_t>(2 * r)], token);
    ASSERT_EQ(tokens[static_cast<size_t>(2 * r + 1)], token);
  }
}

__global__ void list_kernel(Mass* list, uint32_t* size, unsigned capacity, int adds) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  const ListWriter writer{*reinterpret_cast<ListSpace*>(shared), list, size, capacity};
  writer.open();
  for (int i = static_cast<int>(threadIdx.x); i < adds; i += static_cast<int>(blockDim.x)) {
    writer.add(blockIdx.x, static_cast<int>(blockIdx.x) * adds + i);
  }
  writer.close();
}

TEST(SampleList, all_is_kept_up_to_the_capacity_and_counted_beyond) {
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    for (int adds : {0, 700, 1024, 1900}) {
      const auto all = static_cast<unsigned>(3 * adds);
      for (unsigned capacity : {600u, all, all + 1, all > 0 ? all - 1 : 0}) {
        std::vector<Mass> list(capacity + 1, ~Mass{0});
        uint32_t size = 0;
        launch(test_queue(), {3, 96, sizeof(ListSpace)}, "list", list_kernel, list.data(), &size, capacity, adds);
        synchronize();
        EXPECT_EQ(size, all);
        EXPECT_EQ(list[capacity], ~Mass{0}) << "nothing is written behind the list";
        std::sort(list.begin(), list.end());
        const auto stored = std::unique(list.begin(), list.begin() + std::min(all, capacity)) - list.begin();
        EXPECT_EQ(stored, std::min(all, capacity)) << "no entry is lost or written over";
        EXPECT_TRUE(stored == 0 || list[static_cast<size_t>(stored) - 1] != ~Mass{0});
      }
    }
  }
}

__global__ void crossing_kernel(const Mass* weights, int count, Mass target, Crossing<Mass>* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const Crossing<Mass> crossing = find_crossing<Mass>(count, target, space, [&](int i) { return weights[i]; });
  out[threadIdx.x] = crossing;
}

TEST(SampleBlock, the_item_that_passes_a_target_is_found) {
  std::mt19937 random(5);
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    for (int count : {1, 31, 96, 97, 1000}) {
      std::vector<Mass> weights;
      for (int i = 0; i < count; ++i) weights.push_back(random() % 3 ? 0 : random() % 50);
      const Mass total = std::accumulate(weights.begin(), weights.end(), Mass{0});
      for (Mass target : {Mass{0}, total / 3, total ? total - 1 : 0, total, total + 9}) {
        int index = 0;
        Mass below = 0;
        while (index < count && below + weights[static_cast<size_t>(index)] <= target)
          below += weights[static_cast<size_t>(index++)];
        std::vector<Crossing<Mass>> out(96);
        launch(test_queue(), {1, 96, sizeof(BlockSpace)}, "crossing", crossing_kernel, weights.data(), count, target,
               out.data());
        synchronize();
        for (const Crossing<Mass>& crossing : out) {
          ASSERT_EQ(crossing.index, index < count ? index : -1);
          ASSERT_EQ(crossing.index < 0 ? below : crossing.below, below);
        }
      }
    }
  }
}

__global__ void select_kernel(const uint32_t* keys, int count, uint32_t low, uint32_t high, Mass need, Selection<Mass>* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  BlockSpace& space = *reinterpret_cast<BlockSpace*>(shared);
  const Selection<Mass> selection = select_key<Mass>(low, high, need, space, [&](auto add) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      add(keys[i], [&]() -> Mass { return keys[i] % 7; });
    }
  });
  if (threadIdx.x == 0) *out = selection;
}

constexpr std::pair<uint32_t, uint32_t> kRanges[] = {{0, ~0u}, {1000, 1000}, {900, 2400}, {1u << 31, (1u << 31) + 70000}};

TEST(SampleBlock, the_key_down_to_which_enough_is_kept_is_found) {
  std::mt19937 random(6);
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    for (const auto& [low, high] : kRanges) {
      std::vector<uint32_t> keys;
      for (int i = 0; i < 700; ++i) {
        keys.push_back(random() % 2 ? static_cast<uint32_t>(random())
                                    : low + static_cast<uint32_t>(random()) % ((high - low) / 2 + 1));
      }
      std::vector<uint32_t> sorted;
      std::copy_if(keys.begin(), keys.end(), std::back_inserter(sorted),
                   [&](uint32_t key) { return low <= key && key <= high; });
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      for (Mass need : {Mass{1}, Mass{100}, Mass{1000}, Mass{5000}}) {
        Mass sum = 0;
        size_t i = 0;
        while (i < sorted.size() && sum + sorted[i] % 7 < need) sum += sorted[i++] % 7;
        Selection<Mass> selection;
        launch(test_queue(), {1, 64, sizeof(BlockSpace)}, "select", select_kernel, keys.data(), 700, low, high, need,
               &selection);
        synchronize();
        ASSERT_EQ(selection.reached, i < sorted.size());
        if (i == sorted.size()) continue;
        Mass above = 0;
        for (uint32_t key : sorted) above += key > sorted[i] ? key % 7 : 0;
        EXPECT_EQ(selection.key, sorted[i]);
        EXPECT_EQ(selection.above, above);
      }
    }
  }
}

}  // namespace
}  // namespace pagoda::cuda

// The CPU sampler against an independent sort-based reference in plain doubles and integers, on every ISA.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "backend/cpu/sampling.h"
#include "backend/sampling_math.h"
#include "core/philox.h"

namespace pagoda::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kIsas) {
    if (isa_supported(isa)) isas.push_back(isa);
  }
  return isas;
}

SampleResult run(Isa isa, const std::vector<float>& logits, const SampleBatch& batch, int num_threads = 1) {
  ThreadPool pool(num_threads);
  SamplingScratch scratch;
  SampleResult result;
  const auto rows = static_cast<int64_t>(batch.rows.size());
  std::vector<float> copy = logits;
  sample(sampling_kernels(isa), pool, scratch, Tensor::dense(copy.data(), DType::f32, {rows, batch.vocab_size}), batch, result);
  EXPECT_EQ(std::memcmp(copy.data(), logits.data(), logits.size() * sizeof(float)), 0) << "logits are left unchanged";
  return result;
}

/// Logits after mask, edits, penalties and temperature, written from the formulas of the handbook.
std::vector<float> adjusted(const float* logits, const SampleBatch& batch, const SampleRow& row) {
  std::vector<float> x(logits, logits + batch.vocab_size);
  for (int i = 0; i < batch.vocab_size; ++i) {
    if (row.mask >= 0 && !(batch.masks[static_cast<size_t>(row.mask * batch.mask_words() + i / 32)] >> (i % 32) & 1))
      x[i] = -kInfinity;
  }
  for (int i = row.edits_begin; i < row.edits_end; ++i) x[batch.edits[i].token] += batch.edits[i].bias;
  for (int i = row.counts_begin; i < row.counts_end; ++i) {
    float& l = x[batch.counts[i].token];
    const int c = batch.counts[i].output_count;
    l = l > 0 ? l / row.repetition_penalty : l * row.repetition_penalty;
    if (c) l = l - row.frequency_penalty * static_cast<float>(c) - row.presence_penalty;
  }
  if (row.temperature > 0) {
    for (float& l : x) l /= row.temperature;
  }
  return x;
}

/// Sort, cut by top-k, top-p and min-p, then scan in token order.
int reference_token(const float* logits, const SampleBatch& batch, const SampleRow& row) {
  const std::vector<float> x = adjusted(logits, batch, row);
  const auto best = std::max_element(x.begin(), x.end());
  if (row.temperature == 0) return static_cast<int>(best - x.begin());
  const float max = *best;
  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  float cut = -kInfinity;
  if (row.top_k > 0 && row.top_k < batch.vocab_size) cut = x[order[row.top_k - 1]];
  if (row.top_p < 1) {
    uint64_t total = 0, sum = 0;
    for (float l : x) total += l >= cut ? fixed_mass(l, max) : 0;
    const auto need = std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(row.top_p) * static_cast<double>(total)));
    for (int i : order) {
      sum += fixed_mass(x[i], max);
      if (sum < need) continue;
      cut = std::max(cut, x[i]);
      break;
    }
  }
  if (row.min_p > 0) cut = std::max(cut, max + row.log_min_p);
  uint64_t kept = 0, sum = 0;
  for (float l : x) kept += l >= cut ? fixed_mass(l, max) : 0;
  const uint64_t target = mul_high(philox(row.key, row.counter), kept);
  for (size_t i = 0; i < x.size(); ++i) {
    sum += x[i] >= cut ? fixed_mass(x[i], max) : 0;
    if (sum > target) return static_cast<int>(i);
  }
  return -1;
}

struct Case {
  std::vector<float> logits;
  SampleBatch batch;
};

/// Rows of every kind of parameter, with ties and banned tokens.
Case random_case(int vocab, int rows, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  Case c;
  c.batch.vocab_size = vocab;
  for (int i = 0; i < rows * vocab; ++i) c.logits.push_back(3 * normal(random));
  for (size_t i = 1; i < c.logits.size(); i += 7) c.logits[i] = c.logits[i / 2];  // ties
  for (size_t i = 5; i < c.logits.size(); i += 101) c.logits[i] = -kInfinity;
  const auto pick = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int r = 0; r < rows; ++r) {
    SampleRow row;
    row.temperature = uniform(random) < .15f ? 0.f : .3f + uniform(random);
    row.top_p = uniform(random) < .4f ? 1.f : .05f + .94f * uniform(random);
    row.min_p = uniform(random) < .5f ? 0.f : .1f * uniform(random);
    row.log_min_p = std::log(row.min_p);
    row.top_k = uniform(random) < .4f ? 0 : 2 + pick(vocab);
    row.key = random() | uint64_t{random()} << 32;
    row.counter = static_cast<uint64_t>(pick(8192));
    row.repetition_penalty = 1 + uniform(random);
    row.frequency_penalty = uniform(random);
    row.presence_penalty = uniform(random) - .5f;
    row.counts_begin = static_cast<int32_t>(c.batch.counts.size());
    for (int i = 0; i < vocab; i += 1 + pick(9)) c.batch.counts.push_back({i, pick(3)});
    row.counts_end = static_cast<int32_t>(c.batch.counts.size());
    row.edits_begin = static_cast<int32_t>(c.batch.edits.size());
    c.batch.edits.push_back({pick(vocab), 4.5f});
    c.batch.edits.push_back({pick(vocab), -kInfinity});
    row.edits_end = static_cast<int32_t>(c.batch.edits.size());
    if (uniform(random) < .3f) {
      row.mask = static_cast<int32_t>(c.batch.masks.size()) / c.batch.mask_words();
      for (int i = 0; i < c.batch.mask_words(); ++i) c.batch.masks.push_back(static_cast<uint32_t>(random()));
      c.batch.masks[c.batch.masks.size() - static_cast<size_t>(c.batch.mask_words())] |= 1u;
      c.logits[static_cast<size_t>(r * vocab)] = 1.0f;  // token 0 is allowed and finite
    }
    c.batch.rows.push_back(row);
  }
  return c;
}

TEST(Sampling, every_isa_draws_the_token_of_the_sort_based_reference) {
  for (int vocab : {7, 33, 1000, 5003}) {
    const Case c = random_case(vocab, 48, static_cast<unsigned>(vocab));
    for (Isa isa : available_isas()) {
      const SampleResult result = run(isa, c.logits, c.batch, 2);
      for (size_t r = 0; r < c.batch.rows.size(); ++r) {
        const int want = reference_token(c.logits.data() + r * static_cast<size_t>(vocab), c.batch, c.batch.rows[r]);
        if (want < 0) continue;
        EXPECT_EQ(result.rows[r].token, want) << isa_name(isa) << " vocab " << vocab << " row " << r;
      }
    }
  }
}

TEST(Sampling, fixed_mass_follows_exp_to_float_precision) {
  for (float x = -25; x <= 0; x += 0.0037f) {
    const double exact = std::exp(static_cast<double>(x)) * 0x1p38;
    EXPECT_NEAR(static_cast<double>(fixed_mass(x, 0)), exact, exact * 3e-6 + 2) << x;
  }
  EXPECT_EQ(fixed_mass(3, 3), uint64_t{1} << 38);
  EXPECT_EQ(fixed_mass(-1e30f, 3), 0u);
  EXPECT_EQ(fixed_mass(-kInfinity, 3), 0u);
}

TEST(Sampling, logprobs_ranks_and_best_tokens_come_from_the_raw_logits) {
  Case c = random_case(1003, 12, 5);
  for (SampleRow& row : c.batch.rows) row.num_top = 5;
  c.batch.rows[3].forced_token = 17;
  c.batch.rows[4].num_top = 0;
  c.batch.max_top = 5;
  for (Isa isa : available_isas()) {
    const SampleResult result = run(isa, c.logits, c.batch);
    EXPECT_EQ(result.rows[3].token, 17);
    for (size_t r = 0; r < c.batch.rows.size(); ++r) {
      const float* x = c.logits.data() + r * 1003;
      double total = 0;
      for (int i = 0; i < 1003; ++i) total += std::exp(static_cast<double>(x[i]));
      std::vector<int> order(1003);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
      const int token = result.rows[r].token;
      const auto above = std::count_if(x, x + 1003, [&](float v) { return v > x[token]; });
      EXPECT_EQ(result.rows[r].rank, above + 1);
      if (std::isfinite(x[token])) {
        EXPECT_NEAR(result.rows[r].logprob, x[token] - std::log(total), 2e-5);
      }
      for (int k = 0; k < 5; ++k) {
        const int want = k < c.batch.rows[r].num_top ? order[k] : -1;
        ASSERT_EQ(result.top_tokens[r * 5 + k], want) << isa_name(isa) << " row " << r;
        if (want >= 0) {
          EXPECT_NEAR(result.top_logprobs[r * 5 + k], x[want] - std::log(total), 2e-5);
        }
      }
    }
  }
}

TEST(Sampling, equal_logits_give_the_lowest_id_when_greedy) {
  SampleBatch batch;
  batch.vocab_size = 100;
  batch.rows.resize(1);
  batch.rows[0].temperature = 0;
  for (Isa isa : available_isas()) EXPECT_EQ(run(isa, std::vector<float>(100, 2.5f), batch).rows[0].token, 0);
}

TEST(Sampling, a_row_with_nan_or_infinity_or_nothing_left_is_invalid_and_its_neighbours_are_not) {
  SampleBatch batch;
  batch.vocab_size = 50;
  batch.rows.resize(6);
  batch.edits.push_back({7, -kInfinity});
  batch.masks = {1u << 7, 0u};
  batch.rows[4].edits_end = 1;
  batch.rows[4].mask = 0;  // only token 7 is allowed, and it is banned
  std::vector<float> logits(300, 1.0f);
  logits[0 * 50 + 3] = std::nanf("");
  logits[1 * 50 + 49] = -std::nanf("");
  logits[2 * 50 + 20] = kInfinity;
  std::fill_n(logits.begin() + 150, 50, -kInfinity);
  for (Isa isa : available_isas()) {
    const SampleResult result = run(isa, logits, batch);
    for (size_t r = 0; r < 5; ++r) EXPECT_TRUE(result.rows[r].invalid) << r;
    EXPECT_FALSE(result.rows[5].invalid);
  }
}

TEST(Sampling, a_vocabulary_of_one_always_gives_token_zero) {
  SampleBatch batch;
  batch.vocab_size = 1;
  batch.rows.resize(1);
  for (Isa isa : available_isas()) EXPECT_EQ(run(isa, {-3.0f}, batch).rows[0].token, 0);
}

/// Chi-square statistic of 20,000 draws against `expected` probabilities; tokens without probability must never come.
double chi_square(Isa isa, const std::vector<float>& logits, SampleRow row, const std::vector<double>& expected) {
  constexpr int kDraws = 20000, kRows = 500;
  const auto vocab = logits.size();
  SampleBatch batch;
  batch.vocab_size = static_cast<int32_t>(vocab);
  std::vector<float> all;
  for (int i = 0; i < kRows; ++i) all.insert(all.end(), logits.begin(), logits.end());
  std::vector<double> seen(vocab);
  for (int begin = 0; begin < kDraws; begin += kRows) {
    batch.rows.clear();
    for (int i = 0; i < kRows; ++i) {
      row.counter = static_cast<uint64_t>(begin + i);
      batch.rows.push_back(row);
    }
    for (const SampledRow& drawn : run(isa, all, batch).rows) ++seen[static_cast<size_t>(drawn.token)];
  }
  double chi = 0;
  for (size_t i = 0; i < vocab; ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(seen[i], 0) << "token " << i << " must never be drawn";
    } else {
      chi += std::pow(seen[i] - kDraws * expected[i], 2) / (kDraws * expected[i]);
    }
  }
  return chi;
}

/// Exact distribution by the definition: softmax(l / T), top-k, renormalised top-p, min-p.
std::vector<double> exact_distribution(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<double> p(logits.size());
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp(static_cast<double>(logits[i]) / row.temperature);
  const auto normalise = [&] {
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= total;
  };
  for (size_t i = 0; i < order.size(); ++i) {
    if (row.top_k > 0 && i >= static_cast<size_t>(row.top_k)) p[order[i]] = 0;
  }
  normalise();
  double mass = 0;
  for (size_t i : order) {
    if (mass >= row.top_p) p[i] = 0;
    mass += p[i];
  }
  for (double& x : p) x = x < row.min_p * p[order[0]] ? 0 : x;
  normalise();
  return p;
}

TEST(Sampling, twenty_thousand_draws_follow_the_exact_distribution) {
  const std::vector<float> logits{2.f, 1.f, 0.3f, -1.f, 0.5f, -2.f, 1.7f, -0.4f, 0.9f, 1.3f};
  std::vector<SampleRow> rows(8);
  rows[1].temperature = 0.7f;
  rows[2].temperature = 1.6f;
  rows[3].top_k = 4;
  rows[4].top_p = 0.8f;
  rows[5].min_p = 0.2f;
  rows[6].temperature = 1.3f, rows[6].top_k = 7, rows[6].top_p = 0.9f;
  rows[7].temperature = 0.9f, rows[7].top_k = 8, rows[7].top_p = 0.95f, rows[7].min_p = 0.1f;
  for (Isa isa : available_isas()) {
    for (size_t i = 0; i < rows.size(); ++i) {
      SampleRow row = rows[i];
      row.key = 42 + i;
      row.log_min_p = row.min_p > 0 ? std::log(row.min_p) : 0;
      const std::vector<double> expected = exact_distribution(logits, row);
      EXPECT_LT(chi_square(isa, logits, row, expected), 27.9)
          << isa_name(isa) << " case " << i;  // 99.9 % point at 9 degrees of freedom
    }
  }
}

}  // namespace
}  // namespace pagoda::cpu

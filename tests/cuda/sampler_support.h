// What the tests of the sampler share: batches of random rows, and a reference that sorts each row and walks along it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "backend/sample_batch.h"
#include "backend/sampling_math.h"
#include "core/philox.h"
#include "cuda/sampler.h"
#include "emulation_support.h"

namespace pagoda::cuda {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Logits in memory as a backend has them: rows `stride` apart, starting `offset` floats behind an aligned address.
struct SampleCase {
  SampleBatch batch;
  int64_t stride = 0;
  int64_t offset = 0;
  std::vector<float> logits;  // [R, stride], from `offset` on

  Tensor tensor() {
    return {logits.data() + offset, DType::f32, {static_cast<int64_t>(batch.rows.size()), batch.vocab_size}, stride};
  }
  const float* row(size_t r) const { return logits.data() + offset + static_cast<int64_t>(r) * stride; }
};

/// Makes batches of rows of all kinds.
class RandomRows {
 public:
  explicit RandomRows(unsigned seed) : random_(seed) {}

  int below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool once_in(int n) { return below(n) == 0; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }

  SampleCase make(int vocab, int num_rows, bool plain_memory = false) {
    SampleCase sample;
    sample.batch.vocab_size = vocab;
    sample.stride = plain_memory ? vocab : vocab + below(4);
    sample.offset = plain_memory ? 0 : below(3);
    sample.logits.assign(static_cast<size_t>(sample.offset + sample.stride * num_rows), std::nanf(""));
    for (int r = 0; r < num_rows; ++r) {
      float* x = sample.logits.data() + sample.offset + r * sample.stride;
      fill_logits(x, vocab);
      add_row(sample.batch);
    }
    return sample;
  }

  void fill_logits(float* x, int vocab) {
    const int kind = below(10);
    std::normal_distribution<float> normal(0, kind == 0 ? 0.01f : kind == 1 ? 30.0f : 3.0f);
    for (int i = 0; i < vocab; ++i) {
      x[i] = normal(random_);
      if (kind == 2) x[i] = std::round(x[i] * 2) / 2;          // many ties
      if (kind == 3) x[i] = static_cast<float>(below(3)) - 1;  // hardly anything but ties, zeros of both signs
      if (kind == 3 && x[i] == 0 && below(2)) x[i] = -0.0f;
      if (kind == 4) x[i] = 7;
      if (kind == 5 && once_in(3)) x[i] = -kInfinity;
      if (kind == 6) x[i] *= 1e30f;
      if (kind == 7) x[i] *= 1e-30f;
      if (kind == 8 && i % 100 < 95) x[i] -= 12;
    }
  }

  void add_row(SampleBatch& batch) {
    const int vocab = batch.vocab_size;
    SampleRow row;
    row.key = random_();
    row.counter = random_();
    row.num_top = once_in(2) ? -1 : std::min(vocab, one_of({0, 1, 3, 20, 64}));
    batch.max_top = std::max(batch.max_top, row.num_top);
    if (once_in(8)) {
      row.forced_token = below(vocab);
      batch.rows.push_back(row);
      return;
    }
    row.temperature = once_in(3) ? 1 : one_of({0.0f, 0.1f, 0.7f, 1.3f, 3.0f, 100.0f, 1e-6f, 1e6f, 1e-38f, 1e-42f});
    if (once_in(2)) row.top_k = one_of({1, 2, 5, 20, 50, 400, vocab - 1, vocab, vocab + 9});
    if (once_in(2)) row.top_p = one_of({1e-9f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f, 0.99999994f});
    if (once_in(4)) row.min_p = one_of({0.001f, 0.05f, 0.3f, 1.0f});
    row.log_min_p = row.min_p > 0 ? std::log(row.min_p) : 0;
    add_lists(batch, row);
    batch.rows.push_back(row);
  }

 private:
  void add_lists(SampleBatch& batch, SampleRow& row) {
    const int vocab = batch.vocab_size;
    row.edits_begin = row.edits_end = static_cast<int32_t>(batch.edits.size());
    row.counts_begin = row.counts_end = static_cast<int32_t>(batch.counts.size());
    if (once_in(3)) {
      for (int i = below(40); i >= 0; --i) {
        const int token = once_in(2) ? below(std::min(10, vocab)) : below(vocab);
        batch.edits.push_back({token, once_in(3) ? -kInfinity : static_cast<float>(below(2001) - 1000) / 77});
      }
      row.edits_end = static_cast<int32_t>(batch.edits.size());
    }
    if (once_in(3)) {
      row.repetition_penalty = one_of({1.0f, 0.7f, 1.3f});
      row.frequency_penalty = one_of({0.0f, 0.37f, -1.1f});
      row.presence_penalty = one_of({0.0f, 0.9f, -2.0f});
      const int step = 1 + below(9);
      for (int token = below(9); token < vocab; token += step) batch.counts.push_back({token, below(4)});
      row.counts_end = static_cast<int32_t>(batch.counts.size());
    }
    if (once_in(6)) {
      row.mask = static_cast<int32_t>(batch.masks.size() / static_cast<size_t>(batch.mask_words()));
      const int kind = below(8);  // 0: nothing is allowed
      const size_t begin = batch.masks.size();
      batch.masks.resize(begin + static_cast<size_t>(batch.mask_words()), 0u);
      for (int token = 0; token < vocab; ++token) {
        const bool allowed = kind == 0 ? false : kind < 4 ? once_in(30) : !once_in(4);
        if (allowed) batch.masks[begin + static_cast<size_t>(token / 32)] |= 1u << token % 32;
      }
    }
  }

  std::mt19937 random_;
};

/// Logits after mask, edits, penalties and temperature.
inline std::vector<float> adjusted_logits(const float* logits, const SampleBatch& batch, const SampleRow& row) {
  std::vector<float> x(logits, logits + batch.vocab_size);
  for (int i = 0; row.mask >= 0 && i < batch.vocab_size; ++i) {
    const uint32_t word = batch.masks[static_cast<size_t>(row.mask * batch.mask_words() + i / 32)];
    if (!(word >> i % 32 & 1)) x[static_cast<size_t>(i)] = -kInfinity;
  }
  for (int i = row.edits_begin; i < row.edits_end; ++i) {
    const LogitEdit& edit = batch.edits[static_cast<size_t>(i)];
    x[static_cast<size_t>(edit.token)] += edit.bias;
  }
  for (int i = row.counts_begin; i < row.counts_end; ++i) {
    const TokenCount& entry = batch.counts[static_cast<size_t>(i)];
    float& logit = x[static_cast<size_t>(entry.token)];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (entry.output_count == 0) continue;
    logit = logit - row.frequency_penalty * static_cast<float>(entry.output_count);
    logit = logit - row.presence_penalty;
  }
  for (size_t i = 0; row.temperature > 0 && i < x.size(); ++i) x[i] /= row.temperature;
  return x;
}

/// The smallest of `sorted` (best first) that top-k, then top-p, then min-p keep.
inline float reference_cut(const std::vector<float>& sorted, int top_k, float top_p, float log_min_p) {
  const float max = sorted[0] + 0.0f;
  float cut = -kInfinity;
  if (top_k > 0 && top_k < static_cast<int>(sorted.size())) cut = sorted[static_cast<size_t>(top_k) - 1];
  if (top_p < 1) {
    uint64_t total = 0, sum = 0;
    for (float x : sorted) total += x >= cut ? fixed_mass(x, max) : 0;
    const auto need = std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(top_p) * static_cast<double>(total)));
    for (float x : sorted) {
      sum += fixed_mass(x, max);
      if (sum < need) continue;
      cut = std::max(cut, x);
      break;
    }
  }
  return std::max(cut, max + log_min_p);
}

/// -1: everything is banned.
inline int reference_token(const float* logits, const SampleBatch& batch, const SampleRow& row) {
  const std::vector<float> x = adjusted_logits(logits, batch, row);
  const auto best = std::max_element(x.begin(), x.end());
  if (*best == -kInfinity) return -1;
  if (row.temperature == 0 || *best == kInfinity) return static_cast<int>(best - x.begin());
  std::vector<float> sorted = x;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const float max = *best + 0.0f;
  const float cut = reference_cut(sorted, row.top_k, row.top_p, row.min_p > 0 ? row.log_min_p : -kInfinity);
  uint64_t total = 0, below = 0;
  for (float l : x) total += l >= cut ? fixed_mass(l, max) : 0;
  const uint64_t target = mul_high(philox(row.key, row.counter), total);
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] >= cut) below += fixed_mass(x[i], max);
    if (below > target) return static_cast<int>(i);
  }
  return -1;
}

/// Row r of what the sampler must give.
inline void reference_row(const SampleCase& sample, size_t r, SampleResult& result) {
  const SampleBatch& batch = sample.batch;
  const SampleRow& row = batch.rows[r];
  const float* x = sample.row(r);
  const auto n = static_cast<size_t>(batch.vocab_size);
  SampledRow& out = result.rows[r];
  out.invalid = std::any_of(x, x + n, [](float v) { return std::isnan(v) || v == kInfinity; }) ||
                std::all_of(x, x + n, [](float v) { return v == -kInfinity; });
  if (out.invalid) return;
  out.token = row.forced_token >= 0 ? row.forced_token : reference_token(x, batch, row);
  out.invalid = out.token < 0;
  if (out.invalid || row.num_top < 0) return;
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  const float max = x[order[0]] + 0.0f;
  uint64_t total = 0;
  for (size_t i = 0; i < n; ++i) total += fixed_mass(x[i], max);
  const double log_total = std::log(static_cast<double>(total) * 0x1p-38);
  const auto logprob = [&](int token) {
    return static_cast<float>(static_cast<double>(x[token]) - static_cast<double>(max) - log_total);
  };
  out.logprob = logprob(out.token);
  out.rank = 1 + static_cast<int>(std::count_if(x, x + n, [&](float v) { return v > x[out.token]; }));
  for (size_t i = 0; i < static_cast<size_t>(row.num_top); ++i) {
    const size_t at = r * static_cast<size_t>(batch.max_top) + i;
    result.top_tokens[at] = order[i];
    result.top_logprobs[at] = logprob(order[i]);
  }
}

inline SampleResult reference(const SampleCase& sample) {
  const size_t rows = sample.batch.rows.size(), tops = rows * static_cast<size_t>(std::max(0, sample.batch.max_top));
  SampleResult result{std::vector<SampledRow>(rows), std::vector<int32_t>(tops, -1), std::vector<float>(tops, 0.0f)};
  for (size_t r = 0; r < rows; ++r) reference_row(sample, r, result);
  return result;
}

/// Bit for bit.
inline void expect_equal(const SampleResult& expected, const SampleResult& got, const SampleBatch& batch) {
  ASSERT_EQ(expected.rows.size(), got.rows.size());
  const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    const SampledRow &a = expected.rows[r], &b = got.rows[r];
    const SampleRow& row = batch.rows[r];
    ASSERT_TRUE(a.token == b.token && bits(a.logprob) == bits(b.logprob) && a.rank == b.rank && a.invalid == b.invalid)
        << "row " << r << ": expected token " << a.token << " logprob " << a.logprob << " rank " << a.rank << " invalid "
        << a.invalid << ", got " << b.token << " " << b.logprob << " " << b.rank << " " << b.invalid << "; temperature "
        << row.temperature << " top_k " << row.top_k << " top_p " << row.top_p << " min_p " << row.min_p << " forced "
        << row.forced_token << " num_top " << row.num_top << " edits " << row.edits_end - row.edits_begin << " counts "
        << row.counts_end - row.counts_begin << " mask " << row.mask << " of " << batch.vocab_size << " tokens";
  }
  ASSERT_EQ(expected.top_tokens, got.top_tokens);
  ASSERT_EQ(expected.top_logprobs.size(), got.top_logprobs.size());
  ASSERT_EQ(std::memcmp(expected.top_logprobs.data(), got.top_logprobs.data(), got.top_logprobs.size() * sizeof(float)), 0);
}

/// A sampler with device memory of its own.
struct TestSampler {
  static Buffer allocate(size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "allocating");
    return Buffer(memory, [](void* p) { cudaFree(p); });
  }
  Sampler sampler{allocate};

  /// The logits are overwritten.
  SampleResult run(SampleCase sample, const Queue& queue = test_queue()) {
    sampler.launch(queue, sample.tensor(), sample.batch);
    SampleResult result;
    sampler.collect(result);
    return result;
  }
};

}  // namespace pagoda::cuda

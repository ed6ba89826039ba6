// Row logic of the CPU sampler over the whole-row passes of the chosen ISA.
// Bytes per row: V * 4 read once (greedy) to about five times (top-p), from L2. Thresholds: the set kept by top-k, top-p and
// min-p is always {x >= threshold}; ties with the threshold are kept.
#include "backend/cpu/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "backend/sampling_math.h"
#include "core/philox.h"

namespace pagoda::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kDrawChunk = 256;

float key_to_float(uint32_t key) { return std::bit_cast<float>(key & 0x80000000u ? key ^ 0x80000000u : ~key); }

/// One row's work: the raw logits, the row's parameters, this thread's scratch.
class RowSampler {
 public:
  RowSampler(const SamplingKernels& kernels, SamplingScratch::Row& scratch, const float* logits, const SampleBatch& batch,
             const SampleRow& row)
      : kernels_(kernels), scratch_(scratch), raw_(logits), n_(batch.vocab_size), batch_(batch), row_(row) {}

  void run(SampledRow& out, int32_t* top_tokens, float* top_logprobs) {
    uint32_t min_key, max_key;
    kernels_.key_range(raw_, n_, min_key, max_key);
    const bool has_nan_or_inf = max_key >= float_key(kInfinity) || min_key < float_key(-kInfinity);
    if (has_nan_or_inf || max_key == float_key(-kInfinity)) {
      out.invalid = true;
      return;
    }
    raw_max_ = key_to_float(max_key);
    out.token = row_.forced_token >= 0 ? row_.forced_token : choose();
    if (out.token < 0) {
      out.invalid = true;
      return;
    }
    if (row_.num_top >= 0) report(out, top_tokens, top_logprobs);
  }

 private:
  bool plain() const { return row_.edits_begin == row_.edits_end && row_.counts_begin == row_.counts_end && row_.mask < 0; }

  int32_t first_equal(const float* x, float value) const {
    for (int64_t i = 0; i < n_; ++i) {
      if (x[i] == value) return static_cast<int32_t>(i);
    }
    return -1;
  }

  /// The token, or -1 if everything is banned.
  int32_t choose() {
    if (row_.temperature == 0 && plain()) return first_equal(raw_, raw_max_);
    float* x = adjust();
    uint32_t min_key, max_key;
    kernels_.key_range(x, n_, min_key, max_key);
    if (max_key <= float_key(-kInfinity)) return -1;
    const float max = key_to_float(max_key);
    if (row_.temperature == 0 || max == kInfinity) return first_equal(x, max);
    return draw(x, max);
  }

  /// Mask, edits, penalties and temperature, into scratch.
  float* adjust() {
    float* x = scratch_.values.data();
    if (row_.mask >= 0) {
      kernels_.allowed(raw_, batch_.masks.data() + static_cast<int64_t>(row_.mask) * batch_.mask_words(), n_, x);
    } else {
      std::memcpy(x, raw_, static_cast<size_t>(n_) * sizeof(float));
    }
    for (int32_t i = row_.edits_begin; i < row_.edits_end; ++i) {
      const LogitEdit& edit = batch_.edits[static_cast<size_t>(i)];
      x[edit.token] += edit.bias;
    }
    for (int32_t i = row_.counts_begin; i < row_.counts_end; ++i) {
      const TokenCount& entry = batch_.counts[static_cast<size_t>(i)];
      float value = x[entry.token];
      value = value > 0 ? value / row_.repetition_penalty : value * row_.repetition_penalty;
      if (entry.output_count > 0) {
        value -= row_.frequency_penalty * static_cast<float>(entry.output_count);
        value -= row_.presence_penalty;
      }
      x[entry.token] = value;
    }
    if (row_.temperature != 0 && row_.temperature != 1) kernels_.scale(x, n_, row_.temperature, x);
    return x;
  }

  int32_t draw(const float* x, float max) {
    const uint32_t threshold = find_threshold(x, max);
    uint64_t* mass = scratch_.masses.data();
    kernels_.masses(x, n_, max, threshold, mass);
    uint64_t total = 0;
    for (int64_t i = 0; i < n_; ++i) total += mass[i];
    const uint64_t target = mul_high(philox(row_.key, row_.counter), total);
    uint64_t below = 0;
    for (int64_t begin = 0; begin < n_; begin += kDrawChunk) {
      const int64_t end = std::min(n_, begin + kDrawChunk);
      uint64_t chunk = 0;
      for (int64_t i = begin; i < end; ++i) chunk += mass[i];
      if (below + chunk <= target) {
        below += chunk;
        continue;
      }
      for (int64_t i = begin; i < end; ++i) {
        below += mass[i];
        if (below > target) return static_cast<int32_t>(i);
      }
    }
    return -1;
  }

  /// Key of the smallest value that survives top-k, top-p and min-p.
  uint32_t find_threshold(const float* x, float max) {
    uint32_t threshold = 0;
    const bool by_count = row_.top_k > 0 && row_.top_k < n_;
    const bool by_mass = row_.top_p < 1;
    if (by_count || by_mass) {
      fill_bins(x, max);
      if (by_count) threshold = threshold_of_count(x, static_cast<uint64_t>(row_.top_k));
      if (by_mass) threshold = threshold_of_mass(x, max, threshold);
    }
    if (row_.min_p > 0) threshold = std::max(threshold, float_key(max + row_.log_min_p));
    return threshold;
  }

  void fill_bins(const float* x, float max) {
    kernels_.bins(x, n_, max, scratch_.bins.data());
    kernels_.masses(x, n_, max, 0, scratch_.masses.data());
    std::fill(scratch_.counts.begin(), scratch_.counts.end(), 0u);
    std::fill(scratch_.sums.begin(), scratch_.sums.end(), uint64_t{0});
    for (int64_t i = 0; i < n_; ++i) {
      const size_t bin = scratch_.bins[static_cast<size_t>(i)];
      ++scratch_.counts[bin];
      scratch_.sums[bin] += scratch_.masses[static_cast<size_t>(i)];
    }
  }

  /// Keys of the members of `bin` that are at least `min_key`, largest first.
  std::vector<uint32_t>& members(const float* x, size_t bin, uint32_t min_key) {
    scratch_.keys.clear();
    for (int64_t i = 0; i < n_; ++i) {
      if (scratch_.bins[static_cast<size_t>(i)] == bin && float_key(x[i]) >= min_key) scratch_.keys.push_back(float_key(x[i]));
    }
    std::sort(scratch_.keys.begin(), scratch_.keys.end(), std::greater<>());
    return scratch_.keys;
  }

  /// Key of the `need`-th largest value.
  uint32_t threshold_of_count(const float* x, uint64_t need) {
    uint64_t above = 0;
    size_t bin = 0;
    while (above + scratch_.counts[bin] < need) above += scratch_.counts[bin++];
    return members(x, bin, 0)[static_cast<size_t>(need - above - 1)];
  }

  /// Smallest key of the shortest run of most likely values (none below `min_key`) whose mass reaches top_p of the mass from
  /// `min_key` up.
  uint32_t threshold_of_mass(const float* x, float max, uint32_t min_key) {
    const size_t last_bin = min_key ? bin_of(max, key_to_float(min_key)) : kNumBins - 1;
    uint64_t total = 0;
    for (size_t bin = 0; bin < last_bin; ++bin) total += scratch_.sums[bin];
    for (uint32_t key : members(x, last_bin, min_key)) total += fixed_mass(key_to_float(key), max);
    const uint64_t need =
        std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(row_.top_p) * static_cast<double>(total)));
    uint64_t mass = 0;
    size_t bin = 0;
    while (bin < last_bin && mass + scratch_.sums[bin] < need) mass += scratch_.sums[bin++];
    uint32_t threshold = min_key;
    for (uint32_t key : members(x, bin, min_key)) {
      mass += fixed_mass(key_to_float(key), max);
      threshold = key;
      if (mass >= need) break;
    }
    return threshold;
  }

  static size_t bin_of(float max, float value) {
    const float steps = (max - value) * 64.0f;
    return static_cast<size_t>(std::min(steps, static_cast<float>(kNumBins - 1)));
  }

  /// Logprobs and rank from the raw logits.
  void report(SampledRow& out, int32_t* top_tokens, float* top_logprobs) {
    const double log_total = std::log(static_cast<double>(kernels_.total_mass(raw_, n_, raw_max_)) * kMassUnit);
    const auto logprob = [&](float x) {
      return static_cast<float>(static_cast<double>(x) - static_cast<double>(raw_max_) - log_total);
    };
    out.logprob = logprob(raw_[out.token]);
    out.rank = static_cast<int32_t>(1 + kernels_.count_above(raw_, n_, raw_[out.token]));
    if (row_.num_top == 0) return;
    // A heap of (key, ~index): the largest num_top are the best, equal logits by lowest id.
    auto& best = scratch_.best;
    best.clear();
    const auto limit = static_cast<size_t>(row_.num_top);
    for (int64_t i = 0; i < n_; ++i) {
      const uint64_t entry = uint64_t{float_key(raw_[i])} << 32 | ~static_cast<uint32_t>(i);
      if (best.size() == limit) {
        if (entry < best.front()) continue;
        std::pop_heap(best.begin(), best.end(), std::greater<>());
        best.pop_back();
      }
      best.push_back(entry);
      std::push_heap(best.begin(), best.end(), std::greater<>());
    }
    std::sort(best.begin(), best.end(), std::greater<>());
    for (size_t i = 0; i < best.size(); ++i) {
      top_tokens[i] = static_cast<int32_t>(~static_cast<uint32_t>(best[i]));
      top_logprobs[i] = logprob(raw_[top_tokens[i]]);
    }
  }

  const SamplingKernels& kernels_;
  SamplingScratch::Row& scratch_;
  const float* raw_;
  const int64_t n_;
  const SampleBatch& batch_;
  const SampleRow& row_;
  float raw_max_ = 0;
};

}  // namespace

size_t SamplingScratch::row_bytes(int64_t vocab_size) {
  constexpr size_t kPerToken = sizeof(float) + sizeof(uint64_t) + sizeof(uint16_t) + sizeof(uint32_t);
  constexpr size_t kPerBin = sizeof(uint32_t) + sizeof(uint64_t);
  return static_cast<size_t>(vocab_size) * kPerToken + kNumBins * kPerBin;
}

void SamplingScratch::prepare(int num_threads, int64_t vocab_size) {
  rows_.resize(static_cast<size_t>(num_threads));
  const auto n = static_cast<size_t>(vocab_size);
  for (Row& row : rows_) {
    if (row.values.size() >= n) continue;
    row.values.resize(n);
    row.masses.resize(n);
    row.bins.resize(n);
    row.keys.reserve(n);
    row.counts.resize(kNumBins);
    row.sums.resize(kNumBins);
  }
}

void sample(const SamplingKernels& kernels, ThreadPool& pool, SamplingScratch& scratch, const Tensor& logits,
            const SampleBatch& batch, SampleResult& result) {
  const auto num_rows = batch.rows.size();
  const auto max_top = static_cast<size_t>(batch.max_top);
  scratch.prepare(pool.num_threads(), batch.vocab_size);
  result.rows.assign(num_rows, SampledRow{});
  result.top_tokens.assign(num_rows * max_top, -1);
  result.top_logprobs.assign(num_rows * max_top, 0.0f);
  pool.run(static_cast<int64_t>(num_rows), [&](int64_t index, int thread) {
    const auto i = static_cast<size_t>(index);
    RowSampler sampler(kernels, scratch.row(thread), logits.row<float>(index), batch, batch.rows[i]);
    sampler.run(result.rows[i], result.top_tokens.data() + i * max_top, result.top_logprobs.data() + i * max_top);
  });
}

}  // namespace pagoda::cpu

// A simulated model and backend: every slot of the KV cache remembers which context was stored in it, and each next token is a
// hash of all the context read back through the block table. Any wrong sharing, slot or stale block changes tokens. Used by the
// engine's tests.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/philox.h"
#include "model/model.h"

namespace pagoda::sim {

inline uint64_t extend(uint64_t context, int32_t token) { return philox(context, static_cast<uint64_t>(token) + 1); }

inline uint64_t context_of(std::span<const int32_t> tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), uint64_t{0}, extend);
}

/// The model's logits after a context.
inline float logit(uint64_t context, int64_t token) {
  return static_cast<float>(philox(context, ~static_cast<uint64_t>(token)) >> 40) * 0x1p-21f - 4.0f;  // [-4, 4)
}

/// What tests make go wrong. Atomic: some tests change them while an engine's loop runs.
struct Faults {
  std::atomic<int32_t> nan_after{-1};         ///< a token after which every logit is NaN
  std::atomic<int64_t> throw_at_forward{-1};  ///< the forward call, counted from 0, that throws
  std::atomic<bool> slow{false};              ///< each forward takes about a millisecond
  std::atomic<bool> hang{false};              ///< a forward does not return while this is set
};

class SimModel : public Model {
 public:
  /// With `repeats` the logits depend on the last two tokens only, so that greedy texts run into circles.
  explicit SimModel(int64_t vocab_size, Faults* faults = nullptr, bool repeats = false)
      : vocab_size_(vocab_size), faults_(faults), repeats_(repeats) {}

  int64_t vocab_size() const override { return vocab_size_; }
  int64_t max_context() const override { return 1 << 20; }
  KvShape kv_shape() const override { return {1, 1, 2}; }  // with f32: 16 bytes per slot

  int64_t hidden_size() const override { return 2; }

  using Model::forward;
  Tensor forward(const Batch& batch, KvCache& kv, Ops& ops, Tensor* hidden) override {
    if (faults_ && faults_->throw_at_forward == num_forwards_++) throw std::runtime_error("simulated device failure");
    if (faults_ && faults_->slow) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    while (faults_ && faults_->hang) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    auto* slots = static_cast<Slot*>(kv.layer(0).data);
    const Tensor logits = ops.allocate(DType::f32, {batch.num_logit_rows, vocab_size_});
    std::vector<uint64_t> contexts(static_cast<size_t>(batch.num_tokens));
    for (int seq = 0; seq < batch.num_seqs; ++seq) store(batch, seq, slots);
    for (int seq = 0; seq < batch.num_seqs; ++seq) attend(batch, seq, slots, contexts);
    if (hidden) fill_hidden(batch, contexts, *hidden = ops.allocate(DType::f32, {batch.num_tokens, hidden_size()}));
    for (int row = 0; row < batch.num_logit_rows; ++row) {
      const int32_t token = batch.logit_rows[row];
      const bool is_nan = faults_ && faults_->nan_after == batch.token_ids[token];
      for (int64_t v = 0; v < vocab_size_; ++v) {
        logits.row<float>(row)[v] =
            is_nan ? std::numeric_limits<float>::quiet_NaN() : logit(contexts[static_cast<size_t>(token)], v);
      }
    }
    return logits;
  }

  /// Slots that did not hold what their reader's context says they must.
  int64_t num_bad_reads() const { return num_bad_reads_; }
  /// Rows without a sequence that steps were filled up with.
  int64_t num_padding_rows() const { return num_padding_rows_; }

 private:
  struct Slot {
    int32_t token;
    int32_t position;
    uint64_t context;  // of all tokens up to this one: keys and values depend on them all
  };

  /// Like the logits, numbers that depend on all the context.
  void fill_hidden(const Batch& batch, const std::vector<uint64_t>& contexts, const Tensor& hidden) const {
    for (int t = 0; t < batch.num_tokens; ++t) {
      const bool is_nan = faults_ && faults_->nan_after == batch.token_ids[t];
      for (int64_t i = 0; i < hidden_size(); ++i) {
        hidden.row<float>(t)[i] =
            is_nan ? std::numeric_limits<float>::quiet_NaN() : logit(contexts[static_cast<size_t>(t)], 1000 + i) / 3;
      }
    }
  }

  static int64_t slot_of(const Batch& batch, int seq, int64_t position) {
    return int64_t{batch.block_table[int64_t{seq} * batch.max_blocks + position / batch.block_size]} * batch.block_size +
           position % batch.block_size;
  }

  void store(const Batch& batch, int seq, Slot* slots) {
    for (int t = batch.query_start[seq]; t < batch.query_start[seq + 1]; ++t) {
      const int64_t position = batch.positions[t];
      if (batch.slots[t] == -1) {  // a row that fills up the step
        ++num_padding_rows_;
        if (position != 0 || batch.block_table[int64_t{seq} * batch.max_blocks] != 0) ++num_bad_reads_;
        continue;
      }
      if (batch.slots[t] != slot_of(batch, seq, position)) ++num_bad_reads_;
      const uint64_t before = position ? slots[slot_of(batch, seq, position - 1)].context : 0;
      slots[batch.slots[t]] = {batch.token_ids[t], batch.positions[t], extend(before, batch.token_ids[t])};
    }
    if (batch.positions[batch.query_start[seq + 1] - 1] + 1 != batch.kv_len[seq]) ++num_bad_reads_;
  }

  void attend(const Batch& batch, int seq, const Slot* slots, std::vector<uint64_t>& contexts) {
    uint64_t context = 0;
    int32_t last = -1;
    int t = batch.query_start[seq];
    if (batch.slots[t] == -1) return;
    for (int64_t position = 0; position < batch.kv_len[seq]; ++position) {
      const Slot& slot = slots[slot_of(batch, seq, position)];
      context = extend(context, slot.token);
      if (slot.position != position || slot.context != context) {
        ++num_bad_reads_;
        context = ~context;
      }
      const uint64_t seen = repeats_ ? extend(extend(0, last), slot.token) : context;
      last = slot.token;
      if (position == batch.positions[t]) contexts[static_cast<size_t>(t++)] = seen;
    }
  }

  int64_t vocab_size_;
  Faults* faults_;
  bool repeats_;
  int64_t num_forwards_ = 0;
  int64_t num_bad_reads_ = 0;
  int64_t num_padding_rows_ = 0;
};

/// Host memory filled with rubbish, and sampling in plain double precision. The model's operations are never called.
class SimBackend : public Backend {
 public:
  explicit SimBackend(bool pads_decode_steps = false, int max_steps_in_flight = 1) {
    traits_.name = "sim";
    traits_.activation_dtype = DType::f32;
    traits_.pads_decode_steps = pads_decode_steps;
    traits_.max_steps_in_flight = max_steps_in_flight;
  }

  const BackendTraits& traits() const override { return traits_; }
  const DeviceInfo& device() const override { return device_; }

  void reserve(size_t) override {}
  void tune(std::span<const LinearUse>) override {}
  Buffer allocate(size_t bytes) override {
    void* memory = std::malloc(std::max<size_t>(bytes, 1));
    std::memset(memory, 0xA5, bytes);
    return {memory, std::free};
  }
  void prepare_sampling(int64_t) override {}
  size_t num_allocated_bytes() const override { return 0; }
  Buffer allocate_host(size_t bytes) override { return allocate(bytes); }
  void copy_blocks(std::span<const BlockPools> pools, size_t block_bytes, std::span<const BlockCopy> copies) override {
    for (const BlockPools& pool : pools) {
      for (const BlockCopy& copy : copies) {
        std::memcpy(static_cast<char*>(pool.to) + static_cast<size_t>(copy.to) * block_bytes,
                    static_cast<const char*>(pool.from) + static_cast<size_t>(copy.from) * block_bytes, block_bytes);
      }
    }
  }
  void upload(void* device, const void* host, size_t bytes) override { std::memcpy(device, host, bytes); }
  void download(void* host, const void* device, size_t bytes) override { std::memcpy(host, device, bytes); }
  void run_captured(uint64_t, const std::function<void()>& body) override { body(); }

  void start_sampling(const Tensor& logits, const SampleBatch& batch) override {
    SampleResult& result = sampled_.emplace_back();
    const size_t num_rows = batch.rows.size(), max_top = static_cast<size_t>(batch.max_top);
    result.rows.assign(num_rows, {});
    result.top_tokens.assign(num_rows * max_top, -1);
    result.top_logprobs.assign(num_rows * max_top, 0);
    for (size_t i = 0; i < num_rows; ++i) {
      const float* raw = logits.row<float>(static_cast<int64_t>(i));
      const std::vector<double> scores(raw, raw + batch.vocab_size);
      result.rows[i] = sample_row(scores, batch, batch.rows[i]);
      report(scores, batch.rows[i], result.rows[i], result.top_tokens.data() + i * max_top,
             result.top_logprobs.data() + i * max_top);
    }
  }

  void collect_samples(SampleResult& result) override {
    result = std::move(sampled_.front());
    sampled_.pop_front();
  }
  void feed_tokens(int32_t* ids, const int32_t* sources, int64_t n) override {
    for (int64_t t = 0; t < n; ++t) {
      if (sources[t] < 0) continue;
      ids[t] = sampled_.back().rows[static_cast<size_t>(sources[t])].token;
      ++num_fed_tokens_;
    }
  }
  /// Tokens that a step took from the one before.
  int64_t num_fed_tokens() const { return num_fed_tokens_; }

  Weight pack(std::span<const WeightPart>) override { throw std::logic_error("not simulated"); }
  void embed(const Tensor&, const Weight&, const int32_t*) override {}
  void norm(const Tensor&, const Tensor&, const Norm&) override {}
  void add_norm(const Tensor&, const Tensor&, const Tensor&, float, const Norm&) override {}
  void add(const Tensor&, const Tensor&, float) override {}
  void scale(const Tensor&, float, float) override {}
  void linear(const Tensor&, const Tensor&, const Weight&, const float*, void*) override {}
  void route(const Routing&, const Tensor&, const RouteArgs&) override {}
  void grouped_linear(const Tensor&, const Tensor&, const Weight&, const float*, const Routing&, ExpertInput, void*) override {}
  void combine_experts(const Tensor&, const Tensor&, const Routing&) override {}
  void sigmoid_scale(const Tensor&, const Tensor&) override {}
  void rope_store_kv(const Tensor&, const RopeStoreArgs&, const KvLayer&, const Batch&) override {}
  void paged_attention(const Tensor&, const Tensor&, const AttentionArgs&, const KvLayer&, const Batch&, void*) override {}
  void gated_activation(const Tensor&, const Tensor&, Activation) override {}
  void activation(const Tensor&, Activation) override {}
  void gather_rows(const Tensor&, const Tensor&, const int32_t*) override {}

 private:
  static constexpr double kBanned = -std::numeric_limits<double>::infinity();

  static SampledRow sample_row(std::vector<double> scores, const SampleBatch& batch, const SampleRow& row) {
    SampledRow sampled;
    sampled.invalid = std::ranges::any_of(scores, [](double score) { return std::isnan(score); });
    sampled.token = row.forced_token;
    if (sampled.invalid || row.forced_token >= 0) return sampled;
    for (int32_t i = row.edits_begin; i < row.edits_end; ++i) {
      const LogitEdit& edit = batch.edits[static_cast<size_t>(i)];
      scores[static_cast<size_t>(edit.token)] += static_cast<double>(edit.bias);
    }
    for (int32_t v = 0; row.mask >= 0 && v < batch.vocab_size; ++v) {
      const uint32_t word = batch.masks[static_cast<size_t>(row.mask * batch.mask_words() + v / 32)];
      if (!(word >> (v % 32) & 1)) scores[static_cast<size_t>(v)] = kBanned;
    }
    for (int32_t i = row.counts_begin; i < row.counts_end; ++i) {
      const TokenCount& count = batch.counts[static_cast<size_t>(i)];
      scores[static_cast<size_t>(count.token)] -= static_cast<double>(row.frequency_penalty) * count.output_count;
    }
    if (row.temperature > 0) {  // the Gumbel trick, a number per token
      for (size_t v = 0; v < scores.size(); ++v) {
        const double uniform = (static_cast<double>(philox(row.key ^ v << 32, row.counter) >> 11) + 0.5) * 0x1p-53;
        scores[v] = scores[v] / static_cast<double>(row.temperature) - std::log(-std::log(uniform));
      }
    }
    const auto best = std::ranges::max_element(scores);
    sampled.token = static_cast<int32_t>(best - scores.begin());
    sampled.invalid = *best == kBanned;
    return sampled;
  }

  static void report(const std::vector<double>& scores, const SampleRow& row, SampledRow& sampled, int32_t* tops,
                     float* top_logprobs) {
    if (row.num_top < 0 || sampled.invalid) return;
    double sum = 0;
    for (double score : scores) sum += std::exp(score);
    const double chosen = scores[static_cast<size_t>(sampled.token)];
    sampled.logprob = static_cast<float>(chosen - std::log(sum));
    sampled.rank = 1 + static_cast<int32_t>(std::ranges::count_if(scores, [&](double score) { return score > chosen; }));
    std::vector<int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(
        order, [&](int32_t a, int32_t b) { return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)]; });
    for (int32_t i = 0; i < row.num_top; ++i) {
      tops[i] = order[static_cast<size_t>(i)];
      top_logprobs[i] = static_cast<float>(scores[static_cast<size_t>(tops[i])] - std::log(sum));
    }
  }

  BackendTraits traits_;
  std::deque<SampleResult> sampled_;
  int64_t num_fed_tokens_ = 0;
  DeviceInfo device_{"sim", "sim", 1, 0, 0};
};

}  // namespace pagoda::sim

// Attention over a paged cache on any machine: sequences with random q, k and v for every position, computed step by step in
// whatever order a test likes.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "device_support.h"

namespace pagoda::device_test {

struct PagedCase {
  int num_heads = 4, kv_heads = 2, head_dim = 64;
  DType kv_dtype = DType::bf16;  ///< of the cache on the GPU
  int block_size = 16;
  int window = 0;
  float soft_cap = 0;
  bool sinks = false;
  bool rope = false;         ///< half of the head is rotated, q and k are normed before
  std::vector<int> lengths;  ///< context of each sequence at the end

  int qkv_cols() const { return (num_heads + 2 * kv_heads) * head_dim; }
  int out_cols() const { return num_heads * head_dim; }
};

inline std::ostream& operator<<(std::ostream& out, const PagedCase& c) {
  out << c.num_heads << "/" << c.kv_heads << " heads of " << c.head_dim << ", " << dtype_name(c.kv_dtype) << " in blocks of "
      << c.block_size << ", window " << c.window << ", cap " << c.soft_cap << (c.sinks ? ", sinks" : "")
      << (c.rope ? ", rope" : "") << ", lengths";
  for (const int length : c.lengths) out << " " << length;
  return out;
}

/// The cache starts full of NaN; its blocks are handed out in random order.
class PagedRun {
 public:
  /// Positions [begin, end) of one sequence.
  struct Span {
    int seq, begin, end;
  };

  PagedRun(Machine& machine, const PagedCase& c) : machine_(machine), c_(c) {
    for (const int length : c.lengths) {
      max_blocks_ = std::max(max_blocks_, (length + c.block_size - 1) / c.block_size);
      qkv_.push_back(inputs(length, static_cast<unsigned>(qkv_.size()) + 7));
      out_.emplace_back(static_cast<size_t>(length * c.out_cols()));
    }
    table_.resize(c.lengths.size() * static_cast<size_t>(max_blocks_));
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(3));
    // The CPU has no caches of f16 and fp8; what is stored in them here fits in f32 and in them without rounding.
    const bool holds = machine->traits().holds_kv(c.kv_dtype);
    kv_.layout = {holds ? c.kv_dtype : DType::f32, c.block_size, c.kv_heads, c.head_dim};
    kv_.data = machine.memory(table_.size() * kv_.layout.block_bytes());
    args_ = {c.num_heads, c.kv_heads, c.head_dim, 1 / std::sqrt(static_cast<float>(c.head_dim)), c.window, c.soft_cap, nullptr};
    if (c.sinks) args_.sinks = machine.array(random_values(c.num_heads, 5));
    set_rope();
  }

  /// Stores the keys and values of the spans' tokens and attends from them. Spans name sequences in ascending order.
  void step(const std::vector<Span>& spans) {
    std::vector<int32_t> positions, slots, query_start{0}, kv_len, tables;
    std::vector<float> qkv;
    for (const Span& span : spans) {
      const int32_t* blocks = table_.data() + span.seq * max_blocks_;
      for (int p = span.begin; p < span.end; ++p) {
        positions.push_back(p);
        slots.push_back(blocks[p / c_.block_size] * c_.block_size + p % c_.block_size);
      }
      const auto row = [&](int p) { return qkv_[static_cast<size_t>(span.seq)].begin() + p * c_.qkv_cols(); };
      qkv.insert(qkv.end(), row(span.begin), row(span.end));
      query_start.push_back(static_cast<int32_t>(positions.size()));
      kv_len.push_back(span.end);
      tables.insert(tables.end(), blocks, blocks + max_blocks_);
      // Entries past the context are undefined: make them deadly.
      const int used = (span.end + c_.block_size - 1) / c_.block_size;
      std::fill(tables.end() - max_blocks_ + used, tables.end(), std::numeric_limits<int32_t>::max());
    }
    Batch batch;
    batch.num_tokens = static_cast<int>(positions.size());
    batch.num_seqs = static_cast<int>(spans.size());
    batch.max_blocks = max_blocks_;
    for (const Span& span : spans) batch.max_query_len = std::max(batch.max_query_len, span.end - span.begin);
    batch.max_kv_len = *std::max_element(kv_len.begin(), kv_len.end());
    batch.block_size = c_.block_size;
    batch.positions = machine_.array(positions);
    batch.slots = machine_.array(slots);
    batch.query_start = machine_.array(query_start);
    batch.kv_len = machine_.array(kv_len);
    batch.block_table = machine_.array(tables);
    const std::vector<float> out = attend(qkv, batch);
    const float* row = out.data();
    for (const Span& span : spans) {
      const auto count = (span.end - span.begin) * c_.out_cols();
      std::copy(row, row + count, out_[static_cast<size_t>(span.seq)].begin() + span.begin * c_.out_cols());
      row += count;
    }
  }

  /// Every sequence in chunks of at most `chunk` positions, all sequences side by side.
  void run_in_chunks(int chunk) {
    const int longest = *std::max_element(c_.lengths.begin(), c_.lengths.end());
    for (int begin = 0; begin < longest; begin += chunk) {
      std::vector<Span> spans;
      for (size_t s = 0; s < c_.lengths.size(); ++s) {
        if (begin < c_.lengths[s]) spans.push_back({static_cast<int>(s), begin, std::min(begin + chunk, c_.lengths[s])});
      }
      step(spans);
    }
  }
  void run_whole() { run_in_chunks(std::numeric_limits<int>::max() / 2); }
  /// All but the last `num_single` positions of each sequence at once, those one by one.
  void run_and_decode(int num_single) {
    std::vector<Span> spans;
    for (size_t s = 0; s < c_.lengths.size(); ++s) {
      if (c_.lengths[s] > num_single) spans.push_back({static_cast<int>(s), 0, c_.lengths[s] - num_single});
    }
    if (!spans.empty()) step(spans);
    for (int left = num_single; left > 0; --left) {
      spans.clear();
      for (size_t s = 0; s < c_.lengths.size(); ++s) {
        const int begin = c_.lengths[s] - left;
        if (begin >= 0) spans.push_back({static_cast<int>(s), begin, begin + 1});
      }
      step(spans);
    }
  }

  /// [heads * head_dim] of every position, sequence by sequence.
  std::vector<float> out() const {
    std::vector<float> all;
    for (const std::vector<float>& rows : out_) all.insert(all.end(), rows.begin(), rows.end());
    return all;
  }

 private:
  /// Without rope the values are multiples of 1/8 up to 15/8, which every type of cache holds.
  std::vector<float> inputs(int length, unsigned seed) const {
    std::vector<float> values = random_values(length * c_.qkv_cols(), seed, c_.rope ? 1.0f : 0.7f);
    if (c_.rope) return values;
    for (float& value : values) value = std::round(8 * std::clamp(value, -1.875f, 1.875f)) / 8;
    return values;
  }

  void set_rope() {
    rope_ = {.num_heads = c_.num_heads, .kv_heads = c_.kv_heads, .head_dim = c_.head_dim};
    if (!c_.rope) return;
    rope_.rotary_dim = c_.head_dim / 2;
    const int half = rope_.rotary_dim / 2, positions = *std::max_element(c_.lengths.begin(), c_.lengths.end());
    std::vector<float> table;
    for (int i = 0; i < positions * rope_.rotary_dim; ++i) {
      const int position = i / rope_.rotary_dim, j = i % rope_.rotary_dim;
      const double angle = position * std::pow(10000.0, -2.0 * (j % half) / rope_.rotary_dim);
      table.push_back(static_cast<float>(j < half ? std::cos(angle) : std::sin(angle)));
    }
    rope_.cos_sin = machine_.array(table);
    rope_.q_norm = machine_.array(std::vector<float>(static_cast<size_t>(c_.head_dim), 1.25f));
    rope_.k_norm = machine_.array(std::vector<float>(static_cast<size_t>(c_.head_dim), 0.75f));
    rope_.norm_eps = 1e-5f;
  }

  std::vector<float> attend(const std::vector<float>& values, const Batch& batch) {
    const Tensor qkv = machine_.activations(values, c_.qkv_cols());
    machine_->rope_store_kv(qkv, rope_, kv_, batch);
    const Tensor out = machine_.empty(machine_.act(), batch.num_tokens, c_.out_cols());
    void* workspace = machine_.memory(machine_->traits().attention_workspace(batch.num_tokens, batch.max_kv_len, args_));
    machine_->paged_attention(out, qkv.columns(0, c_.out_cols()), args_, kv_, batch, workspace);
    return machine_.read(out);
  }

  Machine& machine_;
  PagedCase c_;
  AttentionArgs args_;
  RopeStoreArgs rope_;
  int max_blocks_ = 0;
  std::vector<std::vector<float>> qkv_;  // [seq][position, (heads + 2 kv_heads) * head_dim]
  std::vector<std::vector<float>> out_;  // [seq][position, heads * head_dim]
  std::vector<int32_t> table_;
  KvLayer kv_;
};

}  // namespace pagoda::device_test

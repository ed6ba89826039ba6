// Attention problems for the tests of both kernels: ragged batches over a paged cache whose unused memory is NaN, and what
// comes out in double precision. What a sequence holds depends on its id alone, not on the batch it is in.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "cuda/attention.h"
#include "cuda/kernels.h"
#include "cuda/number.cuh"
#include "emulation_support.h"

namespace pagoda::cuda {

struct AttentionSequence {
  int query_len = 1;  ///< the last of its tokens
  int kv_len = 1;
  unsigned id = 0;
};

struct AttentionCase {
  int num_heads = 4;
  int kv_heads = 2;
  int head_dim = 64;
  int block_size = 16;
  DType kv_dtype = DType::bf16;
  int window = 0;
  float soft_cap = 0;
  bool sinks = false;
  unsigned shuffle = 1;    ///< of the physical blocks
  int stride_padding = 0;  ///< elements between rows of q and out
  std::vector<AttentionSequence> seqs;
};

/// The value as the cache holds it, rounded.
inline float round_to_kv(float value, DType dtype) {
  if (dtype == DType::f16) return f16_to_float(float_to_f16(value));
  if (dtype == DType::f8_e4m3) return to_float(from_float<E4m3>(value));
  return bf16_to_float(float_to_bf16(value));
}

/// Memory of a case, ready to be run any number of times.
class AttentionProblem {
 public:
  explicit AttentionProblem(const AttentionCase& c)
      : setup_(c),
        q_(DType::bf16, num_tokens(c), int64_t{c.num_heads} * c.head_dim, row_stride(c)),
        out_(DType::bf16, num_tokens(c), int64_t{c.num_heads} * c.head_dim, row_stride(c)) {
    for (const AttentionSequence& seq : c.seqs) {
      query_start_.push_back(query_start_.empty() ? 0 : query_start_.back() + previous_queries_);
      previous_queries_ = seq.query_len;
      kv_len_.push_back(seq.kv_len);
      max_blocks_ = std::max(max_blocks_, blocks_of(seq));
    }
    query_start_.push_back(query_start_.back() + previous_queries_);
    std::mt19937 random(17);
    std::normal_distribution<float> normal(0, 2);
    for (int head = 0; head < c.num_heads; ++head) sinks_.push_back(normal(random));
    place_blocks();
    for (size_t s = 0; s < c.seqs.size(); ++s) fill(s);
  }

  /// Parameters of the launchers, with room for `num_partials` leaves.
  AttentionParams params(int num_partials) {
    const AttentionCase& c = setup_;
    partials_.assign(attention_partial_bytes_bound(num_partials) / 4, std::nanf(""));
    AttentionParams p;
    p.q = reinterpret_cast<const Bf16*>(q_.bytes.data());
    p.num_tokens = q_.rows;
    p.q_stride = q_.row_stride;
    p.out = reinterpret_cast<Bf16*>(out_.bytes.data());
    p.out_stride = out_.row_stride;
    p.kv = cache_.data();
    p.block_shift = std::countr_zero(static_cast<unsigned>(c.block_size));
    p.query_start = query_start_.data();
    p.kv_len = kv_len_.data();
    p.block_table = block_table_.data();
    p.max_blocks = max_blocks_;
    p.num_seqs = static_cast<int>(c.seqs.size());
    p.num_heads = c.num_heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.scale = scale();
    p.window = c.window;
    p.soft_cap = c.soft_cap;
    p.sinks = c.sinks ? sinks_.data() : nullptr;
    p.partials = partials_.data();
    p.num_partials = num_partials;
    return p;
  }

  /// The operation as the backend runs it; its workspace has a guard behind it.
  void run(const Queue& queue) {
    const AttentionCase& c = setup_;
    AttentionArgs args{c.num_heads, c.kv_heads, c.head_dim, scale(), c.window, c.soft_cap, c.sinks ? sinks_.data() : nullptr};
    Batch batch;
    batch.num_tokens = static_cast<int>(q_.rows);
    batch.num_seqs = static_cast<int>(c.seqs.size());
    batch.max_blocks = max_blocks_;
    batch.block_size = c.block_size;
    batch.query_start = query_start_.data();
    batch.kv_len = kv_len_.data();
    batch.block_table = block_table_.data();
    for (const AttentionSequence& seq : c.seqs) {
      batch.max_query_len = std::max(batch.max_query_len, seq.query_len);
      batch.max_kv_len = std::max(batch.max_kv_len, seq.kv_len);
    }
    KvLayer kv{cache_.data(), {c.kv_dtype, c.block_size, c.kv_heads, c.head_dim}};
    const size_t bytes = attention_workspace(batch.num_tokens, batch.max_kv_len, args);
    workspace_.assign(bytes / 8 + 1, kGuard);
    clear();
    paged_attention(queue, out_.view(), q_.view(), args, kv, batch, workspace_.data());
    synchronize();
    EXPECT_EQ(workspace_.back(), kGuard) << "written past the workspace";
  }

  /// Output becomes NaN.
  void clear() { std::fill(out_.bytes.begin(), out_.bytes.end(), std::byte{0xff}); }

  const AttentionCase& setup() const { return setup_; }
  const HostTensor& out() const { return out_; }
  /// Bits of the output of one sequence.
  std::vector<std::byte> output_of(size_t seq) const {
    std::vector<std::byte> bytes;
    for (int token = query_start_[seq]; token < query_start_[seq + 1]; ++token) {
      const std::byte* row = out_.bytes.data() + static_cast<size_t>(token * out_.row_stride * 2);
      bytes.insert(bytes.end(), row, row + out_.cols * 2);
    }
    return bytes;
  }

  /// The error of a sequence's output against double precision, of the worst token and head.
  double error_of(size_t seq) const {
    double worst = 0;
    for (int query = 0; query < setup_.seqs[seq].query_len; ++query) {
      for (int head = 0; head < setup_.num_heads; ++head) {
        const std::vector<double> expected = expected_head(seq, query, head);
        std::vector<float> got;
        for (int i = 0; i < setup_.head_dim; ++i)
          got.push_back(out_.get(query_start_[seq] + query, head * setup_.head_dim + i));
        const double error = relative_error(expected, got);
        worst = error <= worst || worst != worst ? worst : error;  // NaN counts, and stays
      }
    }
    return worst;
  }
  double worst_error() const {
    double worst = 0;
    for (size_t seq = 0; seq < setup_.seqs.size(); ++seq) {
      const double error = error_of(seq);
      worst = error <= worst || worst != worst ? worst : error;
    }
    return worst;
  }

 private:
  static constexpr uint64_t kGuard = 0x5ca1ab1e5ca1ab1e;

  static int64_t num_tokens(const AttentionCase& c) {
    return std::accumulate(c.seqs.begin(), c.seqs.end(), int64_t{0},
                           [](int64_t sum, auto& seq) { return sum + seq.query_len; });
  }
  static int64_t row_stride(const AttentionCase& c) { return int64_t{c.num_heads} * c.head_dim + c.stride_padding; }
  size_t attention_partial_bytes_bound(int num_partials) const {
    return (static_cast<size_t>(num_partials) * static_cast<size_t>(setup_.num_heads) *
                static_cast<size_t>(setup_.head_dim + 2) +
            64) *
           4;
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(setup_.head_dim)); }
  int blocks_of(const AttentionSequence& seq) const { return (seq.kv_len + setup_.block_size - 1) / setup_.block_size; }

  /// Gives every sequence its blocks, among as many that nobody uses.
  void place_blocks() {
    int used = 0;
    for (const AttentionSequence& seq : setup_.seqs) used += blocks_of(seq);
    const auto num_blocks = static_cast<size_t>(2 * used + 1);
    std::vector<int32_t> ids(num_blocks);
    std::iota(ids.begin(), ids.end(), 0);
    std::mt19937 random(setup_.shuffle);
    std::shuffle(ids.begin(), ids.end(), random);
    block_table_.assign(setup_.seqs.size() * static_cast<size_t>(max_blocks_), 1 << 30);  // past the context: undefined
    size_t next = 0;
    for (size_t s = 0; s < setup_.seqs.size(); ++s) {
      for (int i = 0; i < blocks_of(setup_.seqs[s]); ++i)
        block_table_[s * static_cast<size_t>(max_blocks_) + static_cast<size_t>(i)] = ids[next++];
    }
    KvLayout layout{setup_.kv_dtype, setup_.block_size, setup_.kv_heads, setup_.head_dim};
    cache_.assign((num_blocks * layout.block_bytes() + 15) / 16, Line{});
    std::memset(static_cast<void*>(cache_.data()), 0xff, cache_.size() * sizeof(Line));
  }

  /// Where key (or value) `key` of a sequence lies, in elements.
  int64_t cache_index(size_t seq, int key, int value, int kv_head) const {
    const int block = block_table_[seq * static_cast<size_t>(max_blocks_) + static_cast<size_t>(key / setup_.block_size)];
    const int64_t row =
        ((int64_t{block} * 2 + value) * setup_.kv_heads + kv_head) * setup_.block_size + key % setup_.block_size;
    return row * setup_.head_dim;
  }

  void fill(size_t s) {
    const AttentionSequence& seq = setup_.seqs[s];
    std::mt19937 random(seq.id * 7919 + 3);
    std::normal_distribution<float> normal;
    for (int position = 0; position < seq.kv_len; ++position) {
      for (int value = 0; value < 2; ++value) {
        for (int head = 0; head < setup_.kv_heads; ++head) {
          const int64_t at = cache_index(s, position, value, head);
          for (int i = 0; i < setup_.head_dim; ++i) store(at + i, normal(random));
        }
      }
      const int query = position - (seq.kv_len - seq.query_len);
      for (int64_t i = 0; i < q_.cols; ++i) {
        const float element = 2 * normal(random);
        if (query >= 0) q_.set(query_start_[s] + query, i, element);
      }
    }
  }
  void store(int64_t index, float value) {
    auto* bytes = reinterpret_cast<std::byte*>(cache_.data()) + static_cast<size_t>(index) * dtype_bytes(setup_.kv_dtype);
    const uint16_t half = setup_.kv_dtype == DType::f16 ? float_to_f16(value) : float_to_bf16(value);
    const uint8_t byte = from_float<E4m3>(value).bits;
    std::memcpy(bytes, setup_.kv_dtype == DType::f8_e4m3 ? static_cast<const void*>(&byte) : &half,
                dtype_bytes(setup_.kv_dtype));
  }
  double load(int64_t index) const {
    const auto* bytes =
        reinterpret_cast<const std::byte*>(cache_.data()) + static_cast<size_t>(index) * dtype_bytes(setup_.kv_dtype);
    if (setup_.kv_dtype == DType::f8_e4m3) return to_float(E4m3{std::to_integer<uint8_t>(*bytes)});
    uint16_t half;
    std::memcpy(&half, bytes, 2);
    return setup_.kv_dtype == DType::f16 ? f16_to_float(half) : bf16_to_float(half);
  }

  std::vector<double> expected_head(size_t s, int query, int head) const {
    const AttentionCase& c = setup_;
    const AttentionSequence& seq = c.seqs[s];
    const int position = seq.kv_len - seq.query_len + query, kv_head = head / (c.num_heads / c.kv_heads);
    const int first = c.window ? std::max(position - c.window + 1, 0) : 0;
    std::vector<double> scores, expected(static_cast<size_t>(c.head_dim), 0);
    for (int key = first; key <= position; ++key) {
      double dot = 0;
      const int64_t at = cache_index(s, key, 0, kv_head);
      for (int i = 0; i < c.head_dim; ++i) dot += double{q_.get(query_start_[s] + query, head * c.head_dim + i)} * load(at + i);
      dot *= scale();
      scores.push_back(c.soft_cap > 0 ? c.soft_cap * std::tanh(dot / c.soft_cap) : dot);
    }
    double top = *std::max_element(scores.begin(), scores.end()), sum = 0;
    if (c.sinks) top = std::max<double>(top, sinks_[static_cast<size_t>(head)]);
    for (double& score : scores) sum += score = std::exp(score - top);
    if (c.sinks) sum += std::exp(sinks_[static_cast<size_t>(head)] - top);
    for (int key = first; key <= position; ++key) {
      const int64_t at = cache_index(s, key, 1, kv_head);
      const double weight = scores[static_cast<size_t>(key - first)] / sum;
      for (int i = 0; i < c.head_dim; ++i) expected[static_cast<size_t>(i)] += weight * load(at + i);
    }
    return expected;
  }

  struct alignas(16) Line {
    std::byte bytes[16];
  };

  AttentionCase setup_;
  HostTensor q_, out_;
  std::vector<int32_t> query_start_, kv_len_, block_table_;
  std::vector<float> sinks_;
  std::vector<Line> cache_;
  std::vector<float> partials_;
  std::vector<uint64_t> workspace_;
  int max_blocks_ = 0, previous_queries_ = 0;
};

}  // namespace pagoda::cuda

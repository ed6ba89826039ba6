// What the tests of the CPU operations share: the instruction sets of this machine, random numbers, and a paged attention case
// that can be run step by step and compared with a dense double-precision reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/isa.h"

namespace pagoda::test {

inline std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const cpu::Isa isa : cpu::kIsas) {
    if (cpu::isa_supported(isa)) names.emplace_back(cpu::isa_name(isa));
  }
  return names;
}

inline std::vector<float> random_floats(size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

/// random_floats(n, seed), drawn once in a process: for the tests that need the same ones so often that drawing takes long.
inline const std::vector<float>& kept_random_floats(size_t n, unsigned seed) {
  static std::map<std::pair<size_t, unsigned>, std::vector<float>> kept;
  std::vector<float>& values = kept[{n, seed}];
  if (values.empty()) values = random_floats(n, seed);
  return values;
}

inline Tensor matrix(std::vector<float>& values, int64_t rows, int64_t cols) {
  return Tensor::dense(values.data(), DType::f32, {rows, cols});
}

/// Bitwise equality, which also tells -0 from 0.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// The numbers x[n] as a cache of `dtype` holds them.
inline std::vector<double> as_cached(const float* x, int n, DType dtype) {
  std::vector<double> held(x, x + n);
  if (dtype == DType::bf16) {
    for (double& value : held) value = double{bf16_to_float(float_to_bf16(static_cast<float>(value)))};
  } else if (dtype == DType::i8) {
    float largest = 0;
    for (int i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
    const float scale = largest / 127.0f;
    for (int i = 0; i < n && scale > 0; ++i)
      held[static_cast<size_t>(i)] = double{std::nearbyint(x[i] / scale)} * double{scale};
  }
  return held;
}

/// Shape of an attention test.
struct AttentionCase {
  AttentionArgs args;
  DType kv_dtype = DType::f32;
  int block_size = 16;
  std::vector<int> lengths;  ///< context of each sequence at the end
  /// The first `num_sharing` sequences begin with the same `shared` positions, a multiple of block_size, and, with same_blocks,
  /// find them in the blocks of the first one. So do the next as many among themselves, for `num_groups` groups.
  int shared = 0, num_sharing = 0, num_groups = 1;
  bool same_blocks = false;

  /// The sequence in whose blocks sequence `s` begins with same_blocks, itself if in none other's.
  int leader(int s) const { return s < num_sharing * num_groups ? s - s % num_sharing : s; }
  int qkv_cols() const { return (args.num_heads + 2 * args.kv_heads) * args.head_dim; }
  int out_cols() const { return args.num_heads * args.head_dim; }
};

/// Sequences with random q, k and v for every position. The cache starts full of NaN, its blocks are handed out in random
/// order.
class AttentionRun {
 public:
  /// Positions [begin, end) of one sequence, run in one step.
  struct Span {
    int seq, begin, end;
  };

  AttentionRun(const AttentionCase& test, const std::string& isa, int num_threads)
      : test_(test), backend_(make_cpu_backend({num_threads, isa})) {
    for (const int length : test.lengths) {
      max_blocks_ = std::max(max_blocks_, (length + test.block_size - 1) / test.block_size);
      qkv_.push_back(kept_random_floats(static_cast<size_t>(length) * static_cast<size_t>(test.qkv_cols()),
                                        static_cast<unsigned>(qkv_.size()) + 7));
      cached_.push_back(cached_heads(qkv_.back()));
      out_.emplace_back(static_cast<size_t>(length) * static_cast<size_t>(test.out_cols()), 0.0f);
    }
    const size_t num_blocks = test.lengths.size() * static_cast<size_t>(max_blocks_);
    table_.resize(num_blocks);
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(3));
    for (int s = 0; s < test.num_sharing * test.num_groups; ++s) share(static_cast<size_t>(s));
    kv_.layout = {test.kv_dtype, test.block_size, test.args.kv_heads, test.args.head_dim};
    kv_buffer_ = backend_->allocate(num_blocks * kv_.layout.block_bytes());
    kv_.data = kv_buffer_.get();
    std::memset(kv_.data, 0xff, num_blocks * kv_.layout.block_bytes());
  }

  /// Lets the steps to come attend with other kernels than the backend's.
  void attend_with(const cpu::Kernels& kernels) { kernels_ = &kernels; }

  /// Stores the keys and values of the spans' tokens and attends from them. Spans name sequences in ascending order.
  void step(const std::vector<Span>& spans) {
    std::vector<int32_t> positions, slots, query_start{0}, kv_len, tables;
    std::vector<float> qkv;
    for (const Span& span : spans) {
      const int32_t* blocks = table_.data() + span.seq * max_blocks_;
      for (int p = span.begin; p < span.end; ++p) {
        positions.push_back(p);
        slots.push_back(blocks[p / test_.block_size] * test_.block_size + p % test_.block_size);
        const float* row = qkv_row(span.seq, p);
        qkv.insert(qkv.end(), row, row + test_.qkv_cols());
      }
      query_start.push_back(static_cast<int32_t>(positions.size()));
      kv_len.push_back(span.end);
      tables.insert(tables.end(), blocks, blocks + max_blocks_);
      // Entries past the context are undefined: make them deadly.
      const int used = (span.end + test_.block_size - 1) / test_.block_size;
      std::fill(tables.end() - max_blocks_ + used, tables.end(), std::numeric_limits<int32_t>::max());
    }
    Batch batch;
    batch.num_tokens = static_cast<int>(positions.size());
    batch.num_seqs = static_cast<int>(spans.size());
    batch.max_blocks = max_blocks_;
    batch.max_kv_len = *std::max_element(kv_len.begin(), kv_len.end());
    batch.block_size = test_.block_size;
    batch.positions = positions.data();
    batch.slots = slots.data();
    batch.query_start = query_start.data();
    batch.kv_len = kv_len.data();
    batch.block_table = tables.data();
    std::vector<float> out = run(qkv, batch);
    const float* row = out.data();
    for (const Span& span : spans) {
      const auto count = static_cast<size_t>(span.end - span.begin) * static_cast<size_t>(test_.out_cols());
      std::copy(row, row + count, out_row(span.seq, span.begin));
      row += count;
    }
  }

  /// Every position of every sequence in one step.
  void run_whole() {
    std::vector<Span> spans;
    for (size_t s = 0; s < test_.lengths.size(); ++s) spans.push_back({static_cast<int>(s), 0, test_.lengths[s]});
    step(spans);
  }

  const std::vector<std::vector<float>>& out() const { return out_; }
  /// What the steps to come take for a position: [q heads, k heads, v heads][head_dim].
  float* qkv_row(int seq, int position) {
    return qkv_[static_cast<size_t>(seq)].data() + static_cast<int64_t>(position) * test_.qkv_cols();
  }

  /// Attention of one position in double precision, over the keys and values as the cache rounds them.
  std::vector<double> reference(int seq, int position) const {
    const AttentionArgs& args = test_.args;
    const int group = args.num_heads / args.kv_heads;
    std::vector<double> out;
    for (int h = 0; h < args.num_heads; ++h) {
      const float* q = qkv_row(seq, position) + h * args.head_dim;
      std::vector<double> weights, sum(static_cast<size_t>(args.head_dim));
      const int first = args.window ? std::max(0, position - args.window + 1) : 0;
      for (int p = first; p <= position; ++p) {
        const double* k = cached_head(seq, p, h / group);
        double score = 0;
        for (int d = 0; d < args.head_dim; ++d) score += double{q[d]} * k[d];
        score *= double{args.scale};
        if (args.soft_cap > 0) score = double{args.soft_cap} * std::tanh(score / double{args.soft_cap});
        weights.push_back(score);
      }
      const double sink = args.sinks ? double{args.sinks[h]} : -std::numeric_limits<double>::infinity();
      const double best = std::max(sink, *std::max_element(weights.begin(), weights.end()));
      double total = std::exp(sink - best);
      for (int p = first; p <= position; ++p) {
        const double* v = cached_head(seq, p, args.kv_heads + h / group);
        const double weight = std::exp(weights[static_cast<size_t>(p - first)] - best);
        total += weight;
        for (int d = 0; d < args.head_dim; ++d) sum[static_cast<size_t>(d)] += weight * v[d];
      }
      for (const double value : sum) out.push_back(value / total);
    }
    return out;
  }

  /// Largest difference between out() and the reference.
  double error() const {
    double worst = 0;
    for (size_t s = 0; s < out_.size(); ++s) {
      for (int p = 0; p < test_.lengths[s]; ++p) {
        const std::vector<double> want = reference(static_cast<int>(s), p);
        const float* got = out_[s].data() + static_cast<size_t>(p) * want.size();
        for (size_t i = 0; i < want.size(); ++i) {
          const double difference = std::abs(double{got[i]} - want[i]);
          if (!(difference <= worst)) worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
        }
      }
    }
    return worst;
  }

 private:
  /// Lets sequence `seq` begin as its leader does.
  void share(size_t seq) {
    const int leader = test_.leader(static_cast<int>(seq));
    if (static_cast<int>(seq) == leader) return;
    std::copy_n(qkv_[static_cast<size_t>(leader)].begin(), test_.shared * test_.qkv_cols(), qkv_[seq].begin());
    cached_[seq] = cached_heads(qkv_[seq]);
    const auto blocks = [&](int s) { return table_.begin() + static_cast<std::ptrdiff_t>(s) * max_blocks_; };
    if (test_.same_blocks) std::copy_n(blocks(leader), test_.shared / test_.block_size, blocks(static_cast<int>(seq)));
  }
  const float* qkv_row(int seq, int position) const {
    return qkv_[static_cast<size_t>(seq)].data() + static_cast<int64_t>(position) * test_.qkv_cols();
  }
  float* out_row(int seq, int position) {
    return out_[static_cast<size_t>(seq)].data() + static_cast<int64_t>(position) * test_.out_cols();
  }
  /// Key `head`, or value `head - kv_heads`, of a position.
  const double* cached_head(int seq, int position, int head) const {
    const AttentionArgs& args = test_.args;
    return cached_[static_cast<size_t>(seq)].data() + (int64_t{position} * 2 * args.kv_heads + head) * args.head_dim;
  }
  /// [position, 2 kv_heads * head_dim] of a sequence's qkv.
  std::vector<double> cached_heads(const std::vector<float>& qkv) const {
    const AttentionArgs& args = test_.args;
    std::vector<double> all;
    for (auto row = qkv.begin(); row != qkv.end(); row += test_.qkv_cols()) {
      for (int head = args.num_heads; head < args.num_heads + 2 * args.kv_heads; ++head) {
        const std::vector<double> held = as_cached(&*row + head * args.head_dim, args.head_dim, test_.kv_dtype);
        all.insert(all.end(), held.begin(), held.end());
      }
    }
    return all;
  }

  std::vector<float> run(std::vector<float>& qkv, const Batch& batch) {
    const Tensor input = matrix(qkv, batch.num_tokens, test_.qkv_cols());
    RopeStoreArgs rope;
    rope.num_heads = test_.args.num_heads;
    rope.kv_heads = test_.args.kv_heads;
    rope.head_dim = test_.args.head_dim;
    backend_->rope_store_kv(input, rope, kv_, batch);
    std::vector<float> out(static_cast<size_t>(batch.num_tokens) * static_cast<size_t>(test_.out_cols()));
    const Buffer workspace =
        backend_->allocate(backend_->traits().attention_workspace(batch.num_tokens, batch.max_kv_len, test_.args));
    if (kernels_) {
      attend(input, out, batch, workspace.get());
      return out;
    }
    backend_->paged_attention(matrix(out, batch.num_tokens, test_.out_cols()), input.columns(0, test_.out_cols()), test_.args,
                              kv_, batch, workspace.get());
    return out;
  }

  /// With kernels_, on two threads.
  void attend(const Tensor& qkv, std::vector<float>& out, const Batch& batch, void* workspace) {
    ThreadPool pool(2);
    const size_t floats = 2 * static_cast<size_t>(cpu::attention_scratch_floats(cpu::kAttentionMaxHeadDim));
    const Buffer scratch = backend_->allocate(floats * sizeof(float));
    cpu::AttentionJob job;
    job.args = test_.args;
    job.kv = cpu::make_kv_place(kv_);
    job.q = qkv.as<float>();
    job.q_stride = qkv.row_stride;
    job.out = out.data();
    job.out_stride = test_.out_cols();
    job.batch = batch;
    cpu::paged_attention(*kernels_, pool, job, workspace, static_cast<float*>(scratch.get()));
  }

  AttentionCase test_;
  const cpu::Kernels* kernels_ = nullptr;
  std::unique_ptr<Backend> backend_;
  int max_blocks_ = 0;
  std::vector<std::vector<float>> qkv_;      ///< [seq][position, (heads + 2 kv_heads) * head_dim]
  std::vector<std::vector<double>> cached_;  ///< [seq][position, 2 kv_heads * head_dim], as the cache holds them
  std::vector<std::vector<float>> out_;      ///< [seq][position, heads * head_dim]
  std::vector<int32_t> table_;
  Buffer kv_buffer_;
  KvLayer kv_;
};

}  // namespace pagoda::test

// Paged attention of one layer: decode is bound by the bytes of keys and values, prefill by the tensor cores.
#include <algorithm>
#include <numeric>
#include <random>

#include "cuda/kernels.h"
#include "families.h"

namespace pagoda::bench {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128, kBlockSize = 16;
constexpr AttentionArgs kArgs{kHeads, kKvHeads, kHeadDim, 0.088388f, 0, 0, nullptr};

/// Sequences and how many of their last tokens are queries of the step; `copies` sets of them in caches of their own.
class AttentionSteps {
 public:
  AttentionSteps(BenchDevice& device, const std::vector<int>& lengths, int num_queries, DType kv_dtype, int copies)
      : device_(device), lengths_(lengths), num_queries_(num_queries) {
    int64_t blocks = 0;
    for (const int length : lengths) {
      blocks += cuda::divide_up(length, kBlockSize);
      max_blocks_ = std::max(max_blocks_, static_cast<int>(cuda::divide_up(length, kBlockSize)));
    }
    kv_.layout = {kv_dtype, kBlockSize, kKvHeads, kHeadDim};
    const size_t pool_bytes = static_cast<size_t>(blocks * copies) * kv_.layout.block_bytes();
    // Any byte but those of NaN: 8-bit numbers are made of bf16 patterns, which serves the bus as well.
    kv_.data = device.random(pool_bytes, kv_dtype == DType::f16 ? Fill::f16 : Fill::bf16);
    std::vector<int32_t> pool(static_cast<size_t>(blocks * copies));
    std::iota(pool.begin(), pool.end(), 0);
    std::shuffle(pool.begin(), pool.end(), std::mt19937(1));
    const int32_t* next = pool.data();
    for (int copy = 0; copy < copies; ++copy) next = add_tables(next);
    add_arrays();
  }

  /// Puts the step of one copy into the queue.
  void run(const cuda::Queue& queue, int copy) {
    batch_.block_table = tables_[static_cast<size_t>(copy)];
    cuda::paged_attention(queue, out_, q_, kArgs, kv_, batch_, workspace_);
  }

  Work work() const {
    Work work;
    const double row_bytes = 2.0 * kKvHeads * kHeadDim * static_cast<double>(dtype_bytes(kv_.layout.dtype));
    for (const int length : lengths_) {
      const double n = num_queries_, seen = n * length - n * (n - 1) / 2;
      work.bytes += length * row_bytes + 2 * n * kHeads * kHeadDim * 2;
      work.flops += 4.0 * kHeads * kHeadDim * seen;
    }
    return work;
  }

 private:
  const int32_t* add_tables(const int32_t* next) {
    std::vector<int32_t> table;
    for (const int length : lengths_) {
      const auto used = static_cast<int>(cuda::divide_up(length, kBlockSize));
      table.insert(table.end(), next, next + used);
      table.insert(table.end(), static_cast<size_t>(max_blocks_ - used), 0);
      next += used;
    }
    tables_.push_back(device_.array(table));
    return next;
  }

  void add_arrays() {
    std::vector<int32_t> query_start{0};
    for (size_t i = 0; i < lengths_.size(); ++i) query_start.push_back(query_start.back() + num_queries_);
    batch_.num_tokens = query_start.back();
    batch_.num_seqs = static_cast<int>(lengths_.size());
    batch_.max_blocks = max_blocks_;
    batch_.max_query_len = num_queries_;
    batch_.max_kv_len = *std::max_element(lengths_.begin(), lengths_.end());
    batch_.block_size = kBlockSize;
    batch_.query_start = device_.array(query_start);
    batch_.kv_len = device_.array(std::vector<int32_t>(lengths_.begin(), lengths_.end()));
    q_ = device_.random_tensor(DType::bf16, batch_.num_tokens, int64_t{kHeads} * kHeadDim);
    out_ = device_.random_tensor(DType::bf16, batch_.num_tokens, int64_t{kHeads} * kHeadDim);
    workspace_ = device_.memory(cuda::attention_workspace(batch_.num_tokens, batch_.max_kv_len, kArgs));
  }

  BenchDevice& device_;
  std::vector<int> lengths_;
  int num_queries_;
  int max_blocks_ = 0;
  KvLayer kv_;
  std::vector<int32_t*> tables_;
  Batch batch_;
  Tensor q_, out_;
  void* workspace_ = nullptr;
};

size_t kv_bytes(const std::vector<int>& lengths, DType dtype) {
  return static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})) * 2 * kKvHeads * kHeadDim *
         dtype_bytes(dtype);
}

Timing time_decode(BenchDevice& device, Report& report, const std::vector<int>& lengths, DType dtype, std::vector<Field> what) {
  const int copies = device.copies(kv_bytes(lengths, dtype));
  AttentionSteps steps(device, lengths, 1, dtype, copies);
  const Timing timing = device.time(copies, [&](int run) { steps.run(device.queue(), run); });
  what.push_back(field("kv", dtype_name(dtype)));
  Work work = steps.work();
  work.flops = 0;  // far below what the tensor cores could do
  report.add("decode_attention", what, work, timing);
  device.clear();
  return timing;
}

/// Lengths between 1/8 and 4 times the mean, with as many tokens in all as `batch` sequences of `mean`.
std::vector<int> mixed_lengths(int batch, int mean) {
  std::vector<int> lengths;
  std::mt19937 random(3);
  std::uniform_real_distribution<double> exponent(-3, 2);
  for (int i = 0; i < batch; ++i) lengths.push_back(std::max(1, static_cast<int>(mean * std::exp2(exponent(random)))));
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  for (int& length : lengths) length = std::max(1, static_cast<int>(length * (int64_t{mean} * batch) / total));
  return lengths;
}

void bench_mixed(BenchDevice& device, Report& report, int batch, int mean) {
  const Timing uniform = time_decode(device, report, std::vector<int>(static_cast<size_t>(batch), mean), DType::bf16,
                                     {field("batch", batch), field("context", mean)});
  const Timing mixed =
      time_decode(device, report, mixed_lengths(batch, mean), DType::bf16,
                  {field("batch", batch), field("mean_context", mean), field("lengths", "mixed, 1/8 to 4 times the mean")});
  report.add_plain("decode_attention_mixed", {field("batch", batch), field("mean_context", mean)},
                   {field("time_over_uniform", mixed.microseconds / uniform.microseconds)});
}

}  // namespace

void bench_decode_attention(BenchDevice& device, Report& report) {
  if (device.smoke()) {
    time_decode(device, report, {40, 300}, DType::bf16, {field("batch", 2), field("context", 300)});
    bench_mixed(device, report, 3, 40);
    return;
  }
  constexpr int64_t kMaxTokens = int64_t{2} << 20;
  for (const int batch : {1, 8, 64, 256}) {
    for (const int context : {1024, 2048, 4096, 8192, 16384, 32768}) {
      if (int64_t{batch} * context > kMaxTokens) continue;
      const std::vector<int> lengths(static_cast<size_t>(batch), context);
      time_decode(device, report, lengths, DType::bf16, {field("batch", batch), field("context", context)});
      if (context == 8192 || context == 32768) {
        time_decode(device, report, lengths, DType::f8_e4m3, {field("batch", batch), field("context", context)});
      }
    }
  }
  bench_mixed(device, report, 64, 4096);
  bench_mixed(device, report, 16, 8192);
}

void bench_prefill_attention(BenchDevice& device, Report& report) {
  struct Case {
    int queries, context, batch;
  };
  std::vector<Case> cases = {{2048, 2048, 1},   {4096, 4096, 1}, {8192, 8192, 1},
                             {16384, 16384, 1}, {512, 512, 16},  {2048, 16384, 1}};
  if (device.smoke()) cases = {{40, 40, 1}, {20, 60, 2}};
  for (const Case& c : cases) {
    AttentionSteps steps(device, std::vector<int>(static_cast<size_t>(c.batch), c.context), c.queries, DType::bf16, 1);
    Work work = steps.work();
    work.bytes = 0;
    std::vector<int> capabilities = {device.gpu().queue.compute_capability};
    if (capabilities[0] == 90) capabilities.push_back(80);  // the kernel of older GPUs on this one
    for (const int capability : capabilities) {
      cuda::Queue queue = device.queue();
      queue.compute_capability = capability;
      const Timing timing = device.time(1, [&](int) { steps.run(queue, 0); });
      report.add("prefill_attention",
                 {field("batch", c.batch), field("queries", c.queries), field("context", c.context),
                  field("code_for", str("sm_", capability))},
                 work, timing);
    }
    device.clear();
  }
}

}  // namespace pagoda::bench

// Threads and memory of the CPU backend. Small operations stay on the calling thread: waking the others costs about two
// microseconds.
#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "backend/cpu/attention.h"
#include "backend/cpu/device.h"
#include "backend/cpu/grouped_linear.h"
#include "backend/cpu/routing.h"
#include "core/check.h"
#include "core/usable_cores.h"

namespace pagoda::cpu {
namespace {

constexpr size_t kMapBytes =
    size_t{1} << 20;  ///< from this size on memory comes from mmap, so that untouched pages cost nothing
constexpr size_t kHugePageBytes = size_t{32}
                                  << 20;  ///< from this size on in pages of 2 MiB, which the cache of keys and values gains by
constexpr size_t kPopulateBytes = size_t{2} << 20;  ///< memory that a thread takes from the system at a time
constexpr int kMaxThreads = 1024;
/// Elements of a row operation that are worth a second thread.
constexpr int64_t kParallelElements = 16384;

/// Of one thread.
constexpr size_t kAttentionScratchBytes = static_cast<size_t>(attention_scratch_floats(kAttentionMaxHeadDim)) * sizeof(float);

int thread_count(const CpuOptions& options) {
  require(options.num_threads >= 0 && options.num_threads <= kMaxThreads, "num_threads must be in [0, ", kMaxThreads, "], got ",
          options.num_threads);
  return options.num_threads ? options.num_threads : usable_cores();
}

bool holds_kv(DType dtype) { return dtype == DType::bf16 || dtype == DType::f32 || dtype == DType::i8; }

[[noreturn]] void throw_out_of_memory(size_t bytes) {
  throw DeviceError(
      str("the machine has no room for ", bytes, " bytes; ", read_memory().available_bytes, " bytes are available"));
}

}  // namespace

size_t own_scratch(int num_threads, int64_t vocab_size) {
  return static_cast<size_t>(num_threads) * (kAttentionScratchBytes + SamplingScratch::row_bytes(vocab_size));
}

CpuBackend::CpuBackend(const CpuOptions& options)
    : isa_(parse_isa(options.isa)),
      kernels_(kernels(isa_)),
      linear_kernels_(linear_kernels(isa_, parse_input_precision(options.activation_dtype, isa_))),
      sampling_kernels_(sampling_kernels(isa_)),
      device_(cpu_device_info(options)),
      pool_(device_.num_threads),
      attention_scratch_(allocate(static_cast<size_t>(pool_.num_threads()) * kAttentionScratchBytes)) {}

Buffer CpuBackend::allocate(size_t bytes) {
  const auto own = [&](void* data, auto&& give_back) {
    *buffer_bytes_ += bytes;
    return Buffer(data, [bytes, give_back, total = buffer_bytes_](void* p) {
      *total -= bytes;
      give_back(p);
    });
  };
  if (bytes < kMapBytes) {
    void* data = std::aligned_alloc(64, (std::max<size_t>(bytes, 1) + 63) / 64 * 64);
    if (!data) throw_out_of_memory(bytes);
    return own(data, std::free);
  }
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw_out_of_memory(bytes);
  if (bytes >= kHugePageBytes) madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without such pages it works as well
  return own(data, [bytes](void* p) { munmap(p, bytes); });
}

void CpuBackend::make_resident(void* data, size_t bytes) {
#if defined(MADV_POPULATE_WRITE)
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page - reinterpret_cast<uintptr_t>(data);
  if (bytes < begin + page) return;
  const size_t num_pieces = (bytes - begin + kPopulateBytes - 1) / kPopulateBytes;
  pool_.run(static_cast<int64_t>(num_pieces), [&](int64_t piece, int) {
    const size_t at = begin + static_cast<size_t>(piece) * kPopulateBytes, left = (bytes - at) / page * page;
    // A wish: memory that is not populated here, as none is before Linux 5.14, comes when it is first written to.
    madvise(static_cast<char*>(data) + at, std::min(kPopulateBytes, left), MADV_POPULATE_WRITE);
  });
#endif
}

void CpuBackend::prepare_sampling(int64_t vocab_size) {
  sampling_scratch_.prepare(pool_.num_threads(), vocab_size);
  sampling_bytes_ = static_cast<size_t>(pool_.num_threads()) * SamplingScratch::row_bytes(vocab_size);
}

size_t CpuBackend::num_allocated_bytes() const { return *buffer_bytes_ + packed_bytes_ + sampling_bytes_; }

void CpuBackend::upload(void* device, const void* host, size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
}

void CpuBackend::download(void* host, const void* device, size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}

void CpuBackend::copy_blocks(std::span<const BlockPools> pools, size_t block_bytes, std::span<const BlockCopy> copies) {
  const auto num_copies = static_cast<int64_t>(copies.size());
  pool_.run(std::ssize(pools) * num_copies, [&](int64_t task, int) {
    const BlockPools& pool = pools[static_cast<size_t>(task / num_copies)];
    const BlockCopy& copy = copies[static_cast<size_t>(task % num_copies)];
    std::memcpy(static_cast<char*>(pool.to) + static_cast<size_t>(copy.to) * block_bytes,
                static_cast<const char*>(pool.from) + static_cast<size_t>(copy.from) * block_bytes, block_bytes);
  });
}

void CpuBackend::run_captured(uint64_t, const std::function<void()>& body) { body(); }

Weight CpuBackend::pack(std::span<const WeightPart> parts) {
  Weight weight = pack_weight(parts, pool_, pack_memory_);
  packed_bytes_ += weight.bytes;
  return weight;
}

/// Calls body(begin, end) over disjoint ranges of rows, `row_cost` elements each.
template <class Body>
void CpuBackend::for_rows(int64_t rows, int64_t row_cost, const Body& body) {
  const int64_t chunks = std::min({rows, int64_t{4} * pool_.num_threads(), rows * row_cost / (kParallelElements / 2)});
  if (chunks <= 1) return body(int64_t{0}, rows);
  pool_.run_near(chunks, [&](int64_t chunk, int) { body(rows * chunk / chunks, rows * (chunk + 1) / chunks); });
}

void CpuBackend::embed(const Tensor& out, const Weight& table, const int32_t* ids) { cpu::embed(pool_, out, table, ids); }

void CpuBackend::norm(const Tensor& out, const Tensor& x, const Norm& norm) {
  for_rows(x.rows(), x.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels_.norm(out.row<float>(i), x.row<float>(i), norm, x.cols());
  });
}

void CpuBackend::add_norm(const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm) {
  for_rows(x.rows(), x.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.add_norm(out.row<float>(i), residual.row<float>(i), x.row<float>(i), scale, norm, x.cols());
    }
  });
}

void CpuBackend::add(const Tensor& residual, const Tensor& x, float scale) {
  for_rows(x.rows(), x.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels_.add(residual.row<float>(i), x.row<float>(i), scale, x.cols());
  });
}

void CpuBackend::scale(const Tensor& x, float factor, float cap) {
  for_rows(x.rows(), cap > 0 ? 4 * x.cols() : x.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels_.scale(x.row<float>(i), x.cols(), factor, cap);
  });
}

void CpuBackend::linear(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias, void* workspace) {
  cpu::linear(linear_kernels_, pool_, out, x, weight, bias, workspace);
}

void CpuBackend::gated_mlp(const Tensor& out, const Tensor& x, const GatedMlp& mlp) {
  cpu::gated_mlp(linear_kernels_, pool_, out, x, mlp, {kernels_.gated_activation, mlp.activation});
}

void CpuBackend::route(const Routing& out, const Tensor& logits, const RouteArgs& args) {
  for_rows(logits.rows(), 8 * logits.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) choose_experts(out, t, logits.row<float>(t), args);
  });
  sort_pairs(out);
}

void CpuBackend::grouped_linear(const Tensor& out, const Tensor& x, const Weight& experts, const float* bias,
                                const Routing& routing, ExpertInput input, void* workspace) {
  cpu::grouped_linear(linear_kernels_, pool_, {out, x, experts, bias, routing, input}, workspace);
}

void CpuBackend::combine_experts(const Tensor& out, const Tensor& y, const Routing& routing) {
  const int64_t n = out.cols();
  for_rows(out.rows(), n * routing.top_k, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = out.row<float>(t);
      std::fill_n(sum, n, 0.0f);
      for (int64_t pair = t * routing.top_k; pair < (t + 1) * routing.top_k; ++pair) {
        kernels_.add(sum, y.row<float>(routing.places[pair]), routing.weights[pair], n);
      }
    }
  });
}

void CpuBackend::sigmoid_scale(const Tensor& x, const Tensor& gate) {
  for_rows(x.rows(), x.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) kernels_.scale(x.row<float>(t), x.cols(), sigmoid(*gate.row<float>(t)), 0);
  });
}

void CpuBackend::rope_store_kv(const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch) {
  RopeStoreJob job;
  job.args = args;
  job.kv = make_kv_place(kv);
  job.qkv = qkv.as<float>();
  job.qkv_stride = qkv.row_stride;
  job.positions = batch.positions;
  job.slots = batch.slots;
  for_rows(qkv.rows(), 4 * qkv.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) kernels_.rope_store(job, t);
  });
}

void CpuBackend::paged_attention(const Tensor& out, const Tensor& q, const AttentionArgs& args, const KvLayer& kv,
                                 const Batch& batch, void* workspace) {
  AttentionJob job;
  job.args = args;
  job.kv = make_kv_place(kv);
  job.q = q.as<float>();
  job.q_stride = q.row_stride;
  job.out = out.as<float>();
  job.out_stride = out.row_stride;
  job.batch = batch;
  cpu::paged_attention(kernels_, pool_, job, workspace, static_cast<float*>(attention_scratch_.get()));
}

void CpuBackend::gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) {
  const int64_t n = out.cols();
  for_rows(out.rows(), 4 * n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* gate = gate_up.row<float>(i);
      kernels_.gated_activation(out.row<float>(i), gate, gate + n, n, activation);
    }
  });
}

void CpuBackend::activation(const Tensor& x, Activation activation) {
  for_rows(x.rows(), 4 * x.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels_.activation(x.row<float>(i), x.cols(), activation);
  });
}

void CpuBackend::gather_rows(const Tensor& out, const Tensor& x, const int32_t* rows) {
  for (int64_t i = 0; i < out.rows(); ++i) {
    std::memcpy(out.row<float>(i), x.row<float>(rows[i]), static_cast<size_t>(out.cols()) * sizeof(float));
  }
}

void CpuBackend::start_sampling(const Tensor& logits, const SampleBatch& batch) {
  cpu::sample(sampling_kernels_, pool_, sampling_scratch_, logits, batch, sampled_);
}

void CpuBackend::collect_samples(SampleResult& result) { std::swap(result, sampled_); }

void CpuBackend::feed_tokens(int32_t* ids, const int32_t* sources, int64_t n) {
  for (int64_t t = 0; t < n; ++t) {
    if (sources[t] >= 0) ids[t] = sampled_.rows[static_cast<size_t>(sources[t])].token;
  }
}

}  // namespace pagoda::cpu

namespace pagoda {

const BackendTraits& cpu_traits() {
  static const BackendTraits traits{.name = "cpu",
                                    .attends_by_position = true,
                                    .most_gate_up_rows = cpu::kMlpRows,
                                    .holds_kv = cpu::holds_kv,
                                    .packed_bytes = cpu::packed_bytes,
                                    .linear_workspace = cpu::linear_workspace,
                                    .grouped_linear_workspace = cpu::grouped_linear_workspace,
                                    .attention_workspace = cpu::attention_workspace,
                                    .own_scratch = cpu::own_scratch};
  return traits;
}

DeviceInfo cpu_device_info(const CpuOptions& options) {
  const cpu::MemoryInfo memory = cpu::read_memory();
  return {cpu::cpu_name(), cpu::isa_name(cpu::parse_isa(options.isa)), cpu::thread_count(options), memory.total_bytes,
          memory.available_bytes};
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) { return std::make_unique<cpu::CpuBackend>(options); }

}  // namespace pagoda

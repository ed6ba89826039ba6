// The Backend that runs on this machine's processor: picks the kernel tables of an instruction set, owns the threads and their
// scratch, and spreads each operation's rows or tasks over the threads. Made by make_cpu_backend, called by Ops on the engine
// thread.
#pragma once

#include <memory>
#include <span>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/sampling.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

/// What the backend keeps for its threads: attention tiles and the sampler's arrays. Pure.
size_t own_scratch(int num_threads, int64_t vocab_size);

class CpuBackend final : public Backend {
 public:
  /// Throws InvalidArgument for an unknown or unsupported isa or a thread count outside [0, 1024].
  explicit CpuBackend(const CpuOptions& options);

  const BackendTraits& traits() const override { return cpu_traits(); }
  const DeviceInfo& device() const override { return device_; }

  void reserve(size_t) override {}
  Buffer allocate(size_t bytes) override;
  void make_resident(void* data, size_t bytes) override;
  void prepare_sampling(int64_t vocab_size) override;
  size_t num_allocated_bytes() const override;
  Buffer allocate_host(size_t bytes) override { return allocate(bytes); }
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void run_captured(uint64_t key, const std::function<void()>& body) override;
  void copy_blocks(std::span<const BlockPools> pools, size_t block_bytes, std::span<const BlockCopy> copies) override;
  Weight pack(std::span<const WeightPart> parts) override;
  void tune(std::span<const LinearUse>) override {}

  void embed(const Tensor& out, const Weight& table, const int32_t* ids) override;
  void norm(const Tensor& out, const Tensor& x, const Norm& norm) override;
  void add_norm(const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm) override;
  void add(const Tensor& residual, const Tensor& x, float scale) override;
  void scale(const Tensor& x, float factor, float cap) override;
  void linear(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias, void* workspace) override;
  void gated_mlp(const Tensor& out, const Tensor& x, const GatedMlp& mlp) override;
  void route(const Routing& out, const Tensor& logits, const RouteArgs& args) override;
  void grouped_linear(const Tensor& out, const Tensor& x, const Weight& experts, const float* bias, const Routing& routing,
                      ExpertInput input, void* workspace) override;
  void combine_experts(const Tensor& out, const Tensor& y, const Routing& routing) override;
  void sigmoid_scale(const Tensor& x, const Tensor& gate) override;
  void rope_store_kv(const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch) override;
  void paged_attention(const Tensor& out, const Tensor& q, const AttentionArgs& args, const KvLayer& kv, const Batch& batch,
                       void* workspace) override;
  void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override;
  void activation(const Tensor& x, Activation activation) override;
  void gather_rows(const Tensor& out, const Tensor& x, const int32_t* rows) override;
  void start_sampling(const Tensor& logits, const SampleBatch& batch) override;
  void collect_samples(SampleResult& result) override;
  void feed_tokens(int32_t* ids, const int32_t* sources, int64_t n) override;

 private:
  template <class Body>
  void for_rows(int64_t rows, int64_t row_cost, const Body& body);

  const Isa isa_;
  const Kernels& kernels_;
  const LinearKernels linear_kernels_;
  const SamplingKernels& sampling_kernels_;
  DeviceInfo device_;
  ThreadPool pool_;
  std::shared_ptr<size_t> buffer_bytes_ = std::make_shared<size_t>(0);  ///< of live buffers, which may outlive the backend
  size_t packed_bytes_ = 0;
  size_t sampling_bytes_ = 0;
  PackMemory pack_memory_;
  Buffer attention_scratch_;  ///< [num_threads][attention_scratch_floats(kAttentionMaxHeadDim)]
  SamplingScratch sampling_scratch_;
  SampleResult sampled_;  // of the newest start
};

}  // namespace pagoda::cpu

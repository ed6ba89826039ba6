// The Backend that runs on an NVIDIA GPU: owns the stream, the memory and the recorded steps, and hands each operation to its
// launcher (kernels.h). Made by make_cuda_backend, called by Ops and the runner on the engine thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "cuda/device.h"
#include "cuda/device_memory.h"
#include "cuda/gemm.h"
#include "cuda/graph_cache.h"
#include "cuda/matrix.h"
#include "cuda/sampler.h"
#include "cuda/staging.h"

namespace pagoda::cuda {

/// A stream that ends with its owner.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Operations only enter the stream; what waits is `download` and `collect_samples`. Activations are bf16.
class CudaBackend final : public Backend {
 public:
  /// Throws DeviceError when the GPU cannot be used.
  explicit CudaBackend(const CudaOptions& options);
  ~CudaBackend() override;

  const BackendTraits& traits() const override { return cuda_traits(); }
  const DeviceInfo& device() const override { return gpu_.info; }

  void reserve(size_t bytes) override;
  Buffer allocate(size_t bytes) override;
  void prepare_sampling(int64_t vocab_size) override;
  size_t num_allocated_bytes() const override { return memory_.num_taken_bytes(); }
  Buffer allocate_host(size_t bytes) override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void run_captured(uint64_t key, const std::function<void()>& body) override;
  void copy_blocks(std::span<const BlockPools> pools, size_t block_bytes, std::span<const BlockCopy> copies) override;
  Weight pack(std::span<const WeightPart> parts) override;
  void tune(std::span<const LinearUse> uses) override;

  void embed(const Tensor& out, const Weight& table, const int32_t* ids) override;
  void norm(const Tensor& out, const Tensor& x, const Norm& norm) override;
  void add_norm(const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm) override;
  void add(const Tensor& residual, const Tensor& x, float scale) override;
  void scale(const Tensor& x, float factor, float cap) override;
  void linear(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias, void* workspace) override;
  void route(const Routing& out, const Tensor& logits, const RouteArgs& args) override;
  void grouped_linear(const Tensor& out, const Tensor& x, const Weight& experts, const float* bias, const Routing& routing,
                      ExpertInput input, void* workspace) override;
  void gated_linear(const Tensor& out, const Tensor& gate_up, const Tensor& x, const Weight& weight, const float* bias,
                    Activation activation, void* workspace) override;
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
  void enter() const;

  const CudaOptions options_;
  Gpu gpu_;
  Stream stream_;
  Queue queue_;
  DeviceMemory memory_;
  Staging staging_;
  GraphCache graphs_;
  Sampler sampler_;
  Buffer copies_;                       // [kMaxCopies], of the newest launch of copy_blocks
  std::vector<Matrix> tried_matrices_;  // those that cuBLASLt can multiply, as packed
  std::optional<Gemm> gemm_;            // once there are such matrices and `tune` was called
};

}  // namespace pagoda::cuda

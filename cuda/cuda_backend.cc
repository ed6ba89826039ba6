// Every operation is its launcher with the backend's queue.
#include "cuda/cuda_backend.h"

#include <utility>

#include "core/check.h"
#include "cuda/kernels.h"
#include "cuda/pack.h"

namespace pagoda::cuda {
namespace {

/// Formats of a weight, or of each expert's part of one, as the planner gives them.
size_t plan_linear(int64_t num_tokens, int64_t rows, int64_t cols, std::span<const WeightFormat> formats) {
  return linear_workspace(num_tokens, rows, cols, matrix_format(formats));
}

size_t plan_grouped_linear(int64_t num_pairs, int64_t cols, std::span<const WeightFormat> formats, ExpertInput input) {
  return grouped_linear_workspace(num_pairs, cols, matrix_format(formats), input);
}

bool holds_kv(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f8_e4m3; }

size_t own_scratch(int, int64_t vocab_size) { return Sampler::device_bytes(vocab_size); }

}  // namespace

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(stream_); }

CudaBackend::CudaBackend(const CudaOptions& options)
    : options_(options),
      gpu_(open_gpu(options.device_index)),
      queue_(gpu_.queue),
      staging_(stream_.get()),
      graphs_(stream_.get()),
      sampler_([this](size_t bytes) { return memory_.allocate(bytes); }) {
  queue_.stream = stream_.get();
  queue_.deterministic = options.deterministic;
}

/// Nothing may run any more when the memory goes.
CudaBackend::~CudaBackend() { cudaStreamSynchronize(stream_.get()); }

/// The current device belongs to a thread, and calls may come from another one than made the backend.
void CudaBackend::enter() const { check(cudaSetDevice(options_.device_index), "choosing the GPU"); }

void CudaBackend::reserve(size_t bytes) {
  enter();
  memory_.reserve(bytes);
}

Buffer CudaBackend::allocate(size_t bytes) {
  enter();
  return memory_.allocate(bytes);
}

void CudaBackend::upload(void* device, const void* host, size_t bytes) {
  enter();
  staging_.upload(device, host, bytes);
}

void CudaBackend::download(void* host, const void* device, size_t bytes) {
  enter();
  staging_.download(host, device, bytes);
}

void CudaBackend::run_captured(uint64_t key, const std::function<void()>& body) {
  enter();
  graphs_.run(key, body);
}

Weight CudaBackend::pack(std::span<const WeightPart> parts) {
  enter();
  require(!parts.empty(), "a weight needs at least one part");
  const Buffer memory = memory_.allocate(packed_bytes(parts));
  return pack_weight(parts, memory, [this](void* device, const void* host, size_t bytes) { upload(device, host, bytes); });
}

void CudaBackend::tune(int64_t) {}

void CudaBackend::embed(const Tensor& out, const Weight& table, const int32_t* ids) {
  cuda::embed(queue_, out, matrix_of(table), ids);
}

void CudaBackend::norm(const Tensor& out, const Tensor& x, const Norm& norm) { cuda::norm(queue_, out, x, norm); }

void CudaBackend::add_norm(const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm) {
  cuda::add_norm(queue_, out, residual, x, scale, norm);
}

void CudaBackend::add(const Tensor& residual, const Tensor& x, float scale) { cuda::add(queue_, residual, x, scale); }

void CudaBackend::scale(const Tensor& x, float factor, float cap) { cuda::scale(queue_, x, factor, cap); }

void CudaBackend::linear(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias, void* workspace) {
  cuda::linear(queue_, out, x, matrix_of(weight), bias, workspace);
}

void CudaBackend::route(const Routing& out, const Tensor& logits, const RouteArgs& args) {
  cuda::route(queue_, out, logits, args);
}

void CudaBackend::grouped_linear(const Tensor& out, const Tensor& x, const Weight& experts, const float* bias,
                                 const Routing& routing, ExpertInput input, void* workspace) {
  cuda::grouped_linear(queue_, out, x, matrix_of(experts), bias, routing, input, workspace);
}

void CudaBackend::combine_experts(const Tensor& out, const Tensor& y, const Routing& routing) {
  cuda::combine_experts(queue_, out, y, routing);
}

void CudaBackend::sigmoid_scale(const Tensor& x, const Tensor& gate) { cuda::sigmoid_scale(queue_, x, gate); }

void CudaBackend::rope_store_kv(const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch) {
  cuda::rope_store_kv(queue_, qkv, args, kv, batch);
}

void CudaBackend::paged_attention(const Tensor& out, const Tensor& q, const AttentionArgs& args, const KvLayer& kv,
                                  const Batch& batch, void* workspace) {
  cuda::paged_attention(queue_, out, q, args, kv, batch, workspace);
}

void CudaBackend::gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) {
  cuda::gated_activation(queue_, out, gate_up, activation);
}

void CudaBackend::activation(const Tensor& x, Activation activation) { cuda::activation(queue_, x, activation); }

void CudaBackend::gather_rows(const Tensor& out, const Tensor& x, const int32_t* rows) {
  cuda::gather_rows(queue_, out, x, rows);
}

void CudaBackend::sample(const Tensor& logits, const SampleBatch& batch, SampleResult& result) {
  enter();
  sampler_.launch(queue_, logits, batch);
  sampler_.collect(result);
}

}  // namespace pagoda::cuda

namespace pagoda {

const BackendTraits& cuda_traits() {
  static const BackendTraits traits{.name = "cuda",
                                    .activation_dtype = DType::bf16,
                                    .allocation_unit = cuda::DeviceMemory::kUnit,
                                    .pads_decode_steps = true,
                                    .holds_kv = cuda::holds_kv,
                                    .packed_bytes = cuda::packed_bytes,
                                    .linear_workspace = cuda::plan_linear,
                                    .grouped_linear_workspace = cuda::plan_grouped_linear,
                                    .attention_workspace = cuda::attention_workspace,
                                    .own_scratch = cuda::own_scratch};
  return traits;
}

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) { return std::make_unique<cuda::CudaBackend>(options); }

}  // namespace pagoda

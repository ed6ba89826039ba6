// Every operation is its launcher with the backend's queue.
#include "cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "cuda/kernels.h"
#include "cuda/pack.h"

namespace pagoda::cuda {
namespace {

/// Formats of a weight, or of each expert's part of one, as the planner gives them.
size_t plan_linear(int64_t num_tokens, int64_t rows, int64_t cols, std::span<const WeightFormat> formats) {
  const MatrixFormat format = matrix_format(formats);
  const size_t own = linear_workspace(num_tokens, rows, cols, format);
  if (format == MatrixFormat::q8 || format == MatrixFormat::q4) return own;
  // Whether blocks of e4m3 have one scale in each row shows only in the parts.
  const MatrixFormat most = format == MatrixFormat::f8_blocks ? MatrixFormat::f8 : format;
  return std::max(own, Gemm::workspace_bytes(most, num_tokens, cols));
}

size_t plan_grouped_linear(int64_t num_pairs, int64_t cols, std::span<const WeightFormat> formats, ExpertInput input) {
  return grouped_linear_workspace(num_pairs, cols, matrix_format(formats), input);
}

bool holds_kv(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f8_e4m3; }

/// Copies of blocks that one upload brings to the device.
constexpr size_t kMaxCopies = 4096;

size_t own_scratch(int, int64_t vocab_size) {
  return allocated_bytes(cuda_traits(), Sampler::device_bytes(vocab_size)) + kMaxCopies * sizeof(BlockCopy);
}

}  // namespace

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(stream_); }

CudaBackend::CudaBackend(const CudaOptions& options)
    : options_(options),
      gpu_(open_gpu(options.device_index)),
      queue_(gpu_.queue),
      staging_(stream_.get()),
      graphs_(stream_.get()),
      sampler_([this](size_t bytes) { return memory_.allocate(bytes); }),
      copies_(memory_.allocate(kMaxCopies * sizeof(BlockCopy))) {
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

void CudaBackend::prepare_sampling(int64_t vocab_size) {
  enter();
  sampler_.prepare(vocab_size);
}

Buffer CudaBackend::allocate_host(size_t bytes) {
  enter();
  return allocate_pinned(bytes);
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

void CudaBackend::copy_blocks(std::span<const BlockPools> pools, size_t block_bytes, std::span<const BlockCopy> copies) {
  enter();
  for (; !copies.empty(); copies = copies.subspan(std::min(copies.size(), kMaxCopies))) {
    const std::span piece = copies.first(std::min(copies.size(), kMaxCopies));
    staging_.upload(copies_.get(), piece.data(), piece.size_bytes());
    for (const BlockPools& pool : pools) {
      cuda::copy_blocks(queue_, pool.to, pool.from, block_bytes, static_cast<const BlockCopy*>(copies_.get()),
                        std::ssize(piece));
    }
  }
}

Weight CudaBackend::pack(std::span<const WeightPart> parts) {
  enter();
  require(!parts.empty(), "a weight needs at least one part");
  const Buffer memory = memory_.allocate(packed_bytes(parts));
  Weight weight =
      pack_weight(parts, memory, [this](void* device, const void* host, size_t bytes) { upload(device, host, bytes); });
  const Matrix& matrix = matrix_of(weight);
  if (matrix.format == MatrixFormat::bf16 || matrix.format == MatrixFormat::f8) tried_matrices_.push_back(matrix);
  return weight;
}

/// Products with bf16 and f8 may be computed by cuBLASLt: which way is faster is measured, or read from an earlier start.
void CudaBackend::tune(std::span<const LinearUse> uses) {
  enter();
  std::vector<GemmShape> shapes;
  for (const LinearUse& use : uses) {
    for (const MatrixFormat format : {MatrixFormat::bf16, MatrixFormat::f8}) {
      const auto found = std::ranges::find_if(tried_matrices_, [&](const Matrix& matrix) {
        return matrix.format == format && matrix.rows == use.rows && matrix.cols == use.cols;
      });
      if (found == tried_matrices_.end()) continue;
      shapes.push_back({use.rows, use.cols, found->stride, use.out, use.max_tokens, format});
    }
  }
  if (shapes.empty()) return;
  gemm_.emplace(load_cublaslt(options_.library_folders));
  Buffer workspace;
  size_t workspace_bytes = 0;
  const auto own_kernel = [&](const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight) {
    const size_t bytes = linear_workspace(out.rows(), weight.rows, weight.cols, weight.format);
    if (bytes > workspace_bytes) workspace = DeviceMemory().allocate(workspace_bytes = bytes);
    cuda::linear(queue, out, x, weight, nullptr, workspace.get());
  };
  gemm_->prepare(queue_, shapes, {own_kernel, options_.cache_folder, gpu_.info.name, gpu_.driver_version});
}

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
  const GemmOperands operands{out, x, matrix_of(weight)};
  if (gemm_ && gemm_->takes(operands)) return gemm_->run(queue_, operands, bias, workspace);
  cuda::linear(queue_, out, x, operands.weight, bias, workspace);
}

void CudaBackend::route(const Routing& out, const Tensor& logits, const RouteArgs& args) {
  cuda::route(queue_, out, logits, args);
}

void CudaBackend::grouped_linear(const Tensor& out, const Tensor& x, const Weight& experts, const float* bias,
                                 const Routing& routing, ExpertInput input, void* workspace) {
  cuda::grouped_linear(queue_, out, x, matrix_of(experts), bias, routing, input, workspace);
}

/// By cuBLASLt in two steps, by our own kernel in one.
void CudaBackend::gated_linear(const Tensor& out, const Tensor& gate_up, const Tensor& x, const Weight& weight,
                               const float* bias, Activation activation, void* workspace) {
  const GemmOperands operands{gate_up, x, matrix_of(weight)};
  if (gemm_ && gemm_->takes(operands)) {
    return Backend::gated_linear(out, gate_up, x, weight, bias, activation, workspace);
  }
  cuda::gated_linear(queue_, out, gate_up, x, operands.weight, bias, activation, workspace);
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

void CudaBackend::start_sampling(const Tensor& logits, const SampleBatch& batch) {
  enter();
  sampler_.launch(queue_, logits, batch);
}

void CudaBackend::collect_samples(SampleResult& result) {
  enter();
  sampler_.collect(result);
}

void CudaBackend::feed_tokens(int32_t* ids, const int32_t* sources, int64_t n) {
  enter();
  sampler_.feed(queue_, ids, sources, n);
}

}  // namespace pagoda::cuda

namespace pagoda {

const BackendTraits& cuda_traits() {
  static const BackendTraits traits{.name = "cuda",
                                    .activation_dtype = DType::bf16,
                                    .allocation_unit = cuda::DeviceMemory::kUnit,
                                    .pads_decode_steps = true,
                                    .max_steps_in_flight = 2,
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

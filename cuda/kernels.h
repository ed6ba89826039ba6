// The launchers: one for each operation of the backend, declared here, defined beside their kernels (one .cu per family). Each
// puts its kernels into the queue and returns; nothing here waits. Arguments are those of the operations in backend/backend.h,
// unchecked; activations ("act") are bf16. Called by CudaBackend, tests and benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "cuda/matrix.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

// embed.cu: out[T, H] = rows `ids` of the table, dequantised.
void embed(const Queue& queue, const Tensor& out, const Matrix& table, const int32_t* ids);

// norm.cu
void norm(const Queue& queue, const Tensor& out, const Tensor& x, const Norm& norm);
void add_norm(const Queue& queue, const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm);

// elementwise.cu
void add(const Queue& queue, const Tensor& residual, const Tensor& x, float scale);
/// x is act or f32.
void scale(const Queue& queue, const Tensor& x, float factor, float cap);
void gated_activation(const Queue& queue, const Tensor& out, const Tensor& gate_up, Activation activation);
void activation(const Queue& queue, const Tensor& x, Activation activation);
void sigmoid_scale(const Queue& queue, const Tensor& x, const Tensor& gate);
void gather_rows(const Queue& queue, const Tensor& out, const Tensor& x, const int32_t* rows);

// rope_store.cu
void rope_store_kv(const Queue& queue, const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch);

// attention.cu: sequences with one query go to attention_decode.cu, the others to attention_prefill.cu; both sum in one order.
size_t attention_workspace(int64_t num_tokens, int64_t max_context, const AttentionArgs& args);
void paged_attention(const Queue& queue, const Tensor& out, const Tensor& q, const AttentionArgs& args, const KvLayer& kv,
                     const Batch& batch, void* workspace);

// linear.cu
size_t linear_workspace(int64_t num_tokens, int64_t rows, int64_t cols, MatrixFormat format);
/// out[T, rows] (act or f32) = x[T, cols] * weight^T + bias (f32 or null).
void linear(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight, const float* bias, void* workspace);

/// out[T, I] = activation(gate) * up, where gate | up (act) = linear(x), bit for bit; `gate_up`[T, 2I] (act) may be written to.
void gated_linear(const Queue& queue, const Tensor& out, const Tensor& gate_up, const Tensor& x, const Matrix& weight,
                  const float* bias, Activation activation, void* workspace);

// moe.cu
void route(const Queue& queue, const Routing& out, const Tensor& logits, const RouteArgs& args);
void combine_experts(const Queue& queue, const Tensor& out, const Tensor& y, const Routing& routing);
// grouped_linear.cu: `experts` holds routing.num_experts matrices of equal size, one after another.
size_t grouped_linear_workspace(int64_t num_pairs, int64_t cols, MatrixFormat format, ExpertInput input);
void grouped_linear(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& experts, const float* bias,
                    const Routing& routing, ExpertInput input, void* workspace);

// copy_blocks.cu
/// Copies whole blocks of `block_bytes` (a multiple of 16) between two pools; `copies` [n] lies on the device. The pools may be
/// the same if no block is written that is read. Pinned host memory is a pool too.
void copy_blocks(const Queue& queue, void* to, const void* from, size_t block_bytes, const BlockCopy* copies, int64_t n);

}  // namespace pagoda::cuda

// Our own matrix products: what a launch of their kernel needs, shared by linear.cu, grouped_linear.cu and the files that
// instantiate the kernel for a format. Called by the launchers of kernels.h and by tests, which try every tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "cuda/linear_tile.h"
#include "cuda/matrix.h"
#include "cuda/number.cuh"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// Plain data for the kernel: out[token] = x[row of token] * weight^T + bias. With `expert_start` the matrix holds experts one
/// after another and tokens are places.
struct LinearJob {
  MatrixFormat format = MatrixFormat::bf16;
  const unsigned char* values = nullptr;
  const unsigned char* scales = nullptr;
  int rows = 0;  ///< of one expert
  int cols = 0;
  int64_t stride = 0;
  const Bf16* x = nullptr;
  int64_t x_stride = 0;
  bool x_vectors = false;  ///< rows of x are whole vectors of 16 bytes, aligned
  bool out_f32 = false;    ///< else bf16
  void* out = nullptr;
  int64_t out_stride = 0;
  const float* bias = nullptr;            ///< [experts, rows] or null
  int num_tokens = 0;                     ///< rows of out
  const int32_t* expert_start = nullptr;  ///< [num_experts + 1], or null for one matrix
  int num_experts = 1;
  bool gated =
      false;  ///< out[T, rows / 2] = activation(gate) * up, both rounded before; gate and up are the halves of the rows
  Activation activation = Activation::silu;
  const int32_t* pairs = nullptr;  ///< null: row of x = token; else pairs[token] / top_k
  int top_k = 1;
  int row_tiles = 0, token_tiles = 0;  ///< of the grid; set by launch_linear
};

/// The job of a product with one matrix.
LinearJob linear_job(const Tensor& out, const Tensor& x, const Matrix& weight, const float* bias);

/// The tile that suits `num_groups` products of `tokens` rows each.
LinearTile choose_linear_tile(const Queue& queue, const LinearJob& job, int64_t num_groups, int64_t tokens);

/// The tile must fit in the queue's shared memory. No tokens: no launch.
void launch_linear(const Queue& queue, LinearTile tile, LinearJob job);
void launch_linear_bf16(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_linear_q8(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_linear_q4(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_linear_f8(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_linear_f8_blocks(const Queue& queue, LinearTile tile, const LinearJob& job);

/// The same for gated jobs. Activations are silu and gelu_tanh.
void launch_gated_linear_bf16(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_gated_linear_q8(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_gated_linear_q4(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_gated_linear_f8(const Queue& queue, LinearTile tile, const LinearJob& job);
void launch_gated_linear_f8_blocks(const Queue& queue, LinearTile tile, const LinearJob& job);

/// `linear` of kernels.h by our own kernel.
size_t linear_mma_workspace(int64_t num_tokens, int64_t rows, int64_t cols, MatrixFormat format);
void linear_mma(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight, const float* bias,
                void* workspace);

}  // namespace pagoda::cuda

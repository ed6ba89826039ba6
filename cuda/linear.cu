// Products with one matrix: which tile computes them. A large tile reads less, a small one makes more blocks; all give the same
// bits. The kernel is in linear_kernel.cuh. Called by CudaBackend, whose large bf16 products may go to cuBLASLt instead, and by
// grouped_linear.cu.
#include <algorithm>
#include <limits>

#include "cuda/kernels.h"
#include "cuda/linear.h"

namespace pagoda::cuda {
namespace {

/// The tiles, the largest first, each with the blocks from which on it is worth its size, in eighths of the multiprocessors:
/// where sums are the bound, blocks must fill the GPU; where memory is, half of the multiprocessors can ask for all that it
/// gives.
struct TileChoice {
  LinearTile tile;
  int min_eighths;
};
constexpr TileChoice kChoices[] = {{LinearTile::r128n128, 6}, {LinearTile::r64n64, 3}, {LinearTile::r32n32, 4},
                                   {LinearTile::r32n16, 4},   {LinearTile::r32n8, 16}, {LinearTile::r16n8, 0}};

bool rows_are_vectors(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.row_stride % 8 == 0 && x.cols() % 8 == 0;
}

void launch_gated(const Queue& queue, LinearTile tile, const LinearJob& job) {
  switch (job.format) {
    case MatrixFormat::bf16:
      return launch_gated_linear_bf16(queue, tile, job);
    case MatrixFormat::q8:
      return launch_gated_linear_q8(queue, tile, job);
    case MatrixFormat::q4:
      return launch_gated_linear_q4(queue, tile, job);
    case MatrixFormat::f8:
      return launch_gated_linear_f8(queue, tile, job);
    case MatrixFormat::f8_blocks:
      return launch_gated_linear_f8_blocks(queue, tile, job);
  }
}

/// Whether the kernel has the activation and can say in 32 bits how far up lies behind gate.
bool can_gate(const Matrix& weight, Activation activation) {
  return (activation == Activation::silu || activation == Activation::gelu_tanh) &&
         matrix_value_bytes(weight.format, weight.rows / 2 * weight.stride) <= std::numeric_limits<uint32_t>::max();
}

}  // namespace

LinearJob linear_job(const Tensor& out, const Tensor& x, const Matrix& weight, const float* bias) {
  LinearJob job;
  job.format = weight.format;
  job.values = static_cast<const unsigned char*>(weight.values);
  job.scales = static_cast<const unsigned char*>(weight.scales);
  job.rows = static_cast<int>(weight.rows);
  job.cols = static_cast<int>(weight.cols);
  job.stride = weight.stride;
  job.x = x.as<const Bf16>();
  job.x_stride = x.row_stride;
  job.x_vectors = rows_are_vectors(x);
  job.out_f32 = out.dtype == DType::f32;
  job.out = out.data;
  job.out_stride = out.row_stride;
  job.bias = bias;
  job.num_tokens = static_cast<int>(out.rows());
  return job;
}

LinearTile choose_linear_tile(const Queue& queue, const LinearJob& job, int64_t num_groups, int64_t tokens) {
  for (const TileChoice& choice : kChoices) {
    const LinearShape shape = linear_shape(choice.tile);
    const int64_t blocks = num_groups * divide_up(tokens, shape.tokens) * divide_up(job.rows, shape.rows);
    const bool half_used = 2 * tokens > shape.tokens || shape.tokens == 8;
    const bool fits = linear_shared_bytes(job.format, choice.tile) <= queue.shared_bytes;
    if (half_used && fits && 8 * blocks >= int64_t{choice.min_eighths} * queue.num_multiprocessors) return choice.tile;
  }
  return LinearTile::r16n8;
}

void launch_linear(const Queue& queue, LinearTile tile, LinearJob job) {
  const LinearShape shape = linear_shape(tile);
  job.row_tiles = static_cast<int>(divide_up(job.rows, shape.rows));
  // Of each expert that has places, one tile may be partly filled.
  job.token_tiles = job.expert_start ? job.num_tokens / shape.tokens + std::min(job.num_experts, job.num_tokens)
                                     : static_cast<int>(divide_up(job.num_tokens, shape.tokens));
  if (job.gated) return launch_gated(queue, tile, job);
  switch (job.format) {
    case MatrixFormat::bf16:
      return launch_linear_bf16(queue, tile, job);
    case MatrixFormat::q8:
      return launch_linear_q8(queue, tile, job);
    case MatrixFormat::q4:
      return launch_linear_q4(queue, tile, job);
    case MatrixFormat::f8:
      return launch_linear_f8(queue, tile, job);
    case MatrixFormat::f8_blocks:
      return launch_linear_f8_blocks(queue, tile, job);
  }
}

size_t linear_mma_workspace(int64_t, int64_t, int64_t, MatrixFormat) { return 0; }

void linear_mma(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight, const float* bias, void*) {
  const LinearJob job = linear_job(out, x, weight, bias);
  launch_linear(queue, choose_linear_tile(queue, job, 1, job.num_tokens), job);
}

size_t linear_workspace(int64_t num_tokens, int64_t rows, int64_t cols, MatrixFormat format) {
  return linear_mma_workspace(num_tokens, rows, cols, format);
}

void linear(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight, const float* bias, void* workspace) {
  linear_mma(queue, out, x, weight, bias, workspace);
}

void gated_linear(const Queue& queue, const Tensor& out, const Tensor& gate_up, const Tensor& x, const Matrix& weight,
                  const float* bias, Activation activation, void* workspace) {
  if (!can_gate(weight, activation)) {
    linear(queue, gate_up, x, weight, bias, workspace);
    return gated_activation(queue, out, gate_up, activation);
  }
  LinearJob job = linear_job(out, x, weight, bias);
  job.gated = true;
  job.activation = activation;
  launch_linear(queue, choose_linear_tile(queue, job, 1, job.num_tokens), job);
}

}  // namespace pagoda::cuda

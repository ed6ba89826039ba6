// Products with weights in bf16 or f8 by cuBLASLt: which algorithm, if any, is found out by trying when the engine starts.
// Owned by CudaBackend, whose `linear` gives a product to this if it takes it, and to our own kernel otherwise.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/gemm_plan.h"
#include "cuda/gemm_tuner.h"
#include "cuda/lt_matmul.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// What `prepare` needs besides the shapes.
struct GemmSetup {
  OwnKernel own_kernel;      ///< may be empty: then cuBLASLt takes what it can
  std::string cache_folder;  ///< keeps the plans for the next start; empty: nothing is kept
  std::string device_name;
  int driver_version = 0;
};

/// Invariants: 1. A shape has one plan. 2. If the plan was made to be deterministic, its algorithms were seen to give each row
/// the same bits for any number of tokens, and either all products of the shape go to cuBLASLt or none (alignment, which a
/// caller does not change from step to step, apart). 3. Each algorithm of a plan has run before `prepare` returns, so that
/// `run` can be recorded. Calls come from one thread.
class Gemm {
 public:
  /// What `run` needs, for this many tokens or fewer.
  static constexpr size_t workspace_bytes(MatrixFormat format, int64_t num_tokens, int64_t cols) {
    return LtMatmul::workspace_bytes(format, num_tokens, cols);
  }

  /// Throws DeviceError. `library` outlives this.
  explicit Gemm(const CublasLt& library) : matmul_(library) {}

  /// Makes a plan for each shape, deterministic if the queue is; takes GPU memory for the largest product while it works.
  /// Shapes that the library cannot take (dense rows that do not begin at multiples of 16 bytes) get none. Throws DeviceError.
  void prepare(const Queue& queue, std::span<const GemmShape> shapes, const GemmSetup& setup);
  /// The plan for products like this one, null if there is none.
  const GemmPlan* plan(const GemmOperands& operands) const;
  /// Whether `run` computes this product; if not, our own kernel does.
  bool takes(const GemmOperands& operands) const;
  /// out = x * weight^T + bias (f32 or null) for a product that it takes; `workspace` has workspace_bytes. Only enters the
  /// queue. Throws DeviceError.
  void run(const Queue& queue, const GemmOperands& operands, const float* bias, void* workspace);

 private:
  const lt::Algorithm* algorithm(const GemmOperands& operands) const;

  LtMatmul matmul_;
  std::vector<GemmPlan> plans_;
};

/// out[T, rows] (bf16 or f32, rows beginning at multiples of 16 bytes) += bias[rows], rounded once more. Defined in
/// add_bias.cu.
void add_bias(const Queue& queue, const Tensor& out, const float* bias);

}  // namespace pagoda::cuda

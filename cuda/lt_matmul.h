// One matrix product as cuBLASLt knows it: the library's handle and descriptions, set to the operands of each call. Owned by
// Gemm, which chooses the algorithms.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "core/tensor.h"
#include "cuda/cublaslt.h"
#include "cuda/matrix.h"

namespace pagoda::cuda {

/// out[T, rows] (bf16 or f32) = x[T, cols] (bf16) * weight[rows, cols]^T (bf16), summed in f32.
struct GemmOperands {
  Tensor out;
  Tensor x;
  Matrix weight;
};

/// Whether all rows begin at multiples of 16 bytes, which the chosen algorithms rely on, and the types are the ones above.
bool fits_cublaslt(const GemmOperands& operands);

/// Calls come from one thread. Operands are such that fits_cublaslt.
class LtMatmul {
 public:
  /// Algorithms are only asked for that need no more workspace.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  /// Throws DeviceError. The table of functions outlives this.
  explicit LtMatmul(const CublasLt& library);

  size_t version() const { return library_.version(); }
  /// What the library proposes, best guess first; sums that are split are added by one of the schemes of `reductions`
  /// (lt::kReduction...). Pointers are not read. May be empty.
  std::vector<lt::Algorithm> candidates(const GemmOperands& operands, uint32_t reductions);
  /// Whether the algorithm can compute the product with kWorkspaceBytes. Pointers are not read.
  bool supports(const GemmOperands& operands, const lt::Algorithm& algorithm);
  /// Puts the product into the stream; `workspace` has kWorkspaceBytes. False: the library does not run the algorithm for it.
  /// Throws DeviceError for all else.
  bool run(cudaStream_t stream, const GemmOperands& operands, const lt::Algorithm& algorithm, void* workspace);

 private:
  template <class T>
  using Owned = std::unique_ptr<T, lt::Status (*)(T*)>;

  void check(lt::Status status, const char* what) const;
  Owned<lt::MatrixLayout> make_layout() const;
  void set_layout(lt::MatrixLayout& layout, const Tensor& matrix) const;
  void describe(const GemmOperands& operands) const;

  const CublasLt& library_;
  Owned<lt::Context> context_;
  Owned<lt::MatmulDesc> desc_;
  Owned<lt::MatrixLayout> weight_, x_, out_;
};

}  // namespace pagoda::cuda

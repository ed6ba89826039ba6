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
#include "cuda/queue.h"

namespace pagoda::cuda {

/// out[T, rows] (bf16 or f32) = x[T, cols] (bf16) * weight[rows, cols]^T (bf16 or f8), summed in f32. With f8 the rows of x are
/// quantised to e4m3 too.
struct GemmOperands {
  Tensor out;
  Tensor x;
  Matrix weight;
};

/// Whether all rows begin at multiples of 16 bytes, which the chosen algorithms rely on, and the types are the ones above. In
/// f8 the weight's rows and columns are multiples of 16 too.
bool fits_cublaslt(const GemmOperands& operands);

/// Calls come from one thread. Operands are such that fits_cublaslt.
class LtMatmul {
 public:
  /// Algorithms are only asked for that need no more workspace.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  /// What a product needs besides, at any address: the library's part, which begins at a multiple of 256, then quantised rows
  /// of x and their scales. A multiple of 256, with room for fewer tokens too.
  static constexpr size_t workspace_bytes(MatrixFormat format, int64_t num_tokens, int64_t cols) {
    constexpr size_t kLibraryBytes = kWorkspaceBytes + kWorkspaceAlignment;
    if (format != MatrixFormat::f8) return kLibraryBytes;
    return kLibraryBytes + aligned(num_tokens * cols) + aligned(num_tokens * 4);
  }

  /// Throws DeviceError. The table of functions outlives this.
  explicit LtMatmul(const CublasLt& library);

  size_t version() const { return library_.version(); }
  /// What the library proposes, best guess first; sums that are split are added by one of the schemes of `reductions`
  /// (lt::kReduction...). Pointers are not read. May be empty.
  std::vector<lt::Algorithm> candidates(const GemmOperands& operands, uint32_t reductions);
  /// Whether the algorithm can compute the product with this workspace. Pointers are not read.
  bool supports(const GemmOperands& operands, const lt::Algorithm& algorithm);
  /// Puts the product into the queue; `workspace` has workspace_bytes. False: the library does not run the algorithm for it.
  /// Throws DeviceError for all else.
  bool run(const Queue& queue, const GemmOperands& operands, const lt::Algorithm& algorithm, void* workspace);

 private:
  struct QuantisedRows {
    void* values = nullptr;
    float* scales = nullptr;
  };

  static constexpr size_t kWorkspaceAlignment = 256;  ///< what the library demands
  static constexpr size_t aligned(int64_t bytes) {
    return (static_cast<size_t>(bytes) + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  }

  template <class T>
  using Owned = std::unique_ptr<T, lt::Status (*)(T*)>;

  void check(lt::Status status, const char* what) const;
  Owned<lt::MatrixLayout> make_layout() const;
  void set_layout(lt::MatrixLayout& layout, const Tensor& matrix) const;
  Owned<lt::MatmulDesc> make_desc() const;
  lt::MatmulDesc* describe(const GemmOperands& operands, const QuantisedRows& x) const;

  const CublasLt& library_;
  Owned<lt::Context> context_;
  Owned<lt::MatmulDesc> desc_, f8_desc_;  ///< the second null if the library knows no vectors of scales
  Owned<lt::MatrixLayout> weight_, x_, out_;
};

}  // namespace pagoda::cuda

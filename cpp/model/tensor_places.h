// Where the logical tensors of a decoder lie in a checkpoint: the one description of names and arrangement. decoder_parts.cc
// reads checkpoints by it, gguf_export.cc and directory_export.cc write them by it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/tensor_layout.h"

namespace pagoda {

/// The matrices of a decoder, all [out, in]. Their rows have one canonical order, whatever a file's own: heads one after
/// another, in each head the rotary pairs (i, i + half).
enum class MatrixRole : uint8_t {
  embedding,
  positions,
  lm_head,
  q,
  k,
  v,
  out,
  gate,
  up,
  down,
  router,
  expert_gate,
  expert_up,
  expert_down,
  shared_gate,
  shared_up,
  shared_down,
  shared_scale,
};

/// One matrix. `layer` counts where the role is of a layer, `expert` where it is of an expert.
struct MatrixId {
  MatrixRole role;
  int layer = 0;
  int expert = 0;
};

/// Where a matrix lies.
struct MatrixPlace {
  std::string tensor;              ///< name without suffix; its bias, if it has one, goes by the same name and order
  int64_t rows = 0;                ///< of the matrix
  int64_t cols = 0;                ///< of both
  int64_t tensor_rows = 0;         ///< of the tensor, or of one of its stack
  std::vector<int32_t> row_order;  ///< row i of the matrix is row row_order[i] of the tensor; empty: it is the whole tensor
  bool transposed = false;         ///< the tensor is stored as [cols, tensor_rows]
  int64_t index = 0;
  int64_t count = 0;  ///< the tensor is a stack [count, tensor_rows, cols] and this is in its part `index`; 0: no stack
};

enum class NormRole : uint8_t { attn, post_attn, mlp, post_mlp, final };

/// Where the norm of q's or k's heads lies: in one tensor, or in one for each head.
struct HeadNormPlace {
  std::vector<std::string> tensors;  ///< with suffix
  int64_t tensor_size = 0;           ///< of each
  std::vector<int32_t> order;        ///< as MatrixPlace::row_order, over all tensors
};

/// The layers' own linear matrices: those that a checkpoint may quantise. Not routers.
bool is_linear(MatrixRole role);

/// Whether checkpoints of this configuration have a bias to the matrix.
bool has_bias(const ModelConfig& config, MatrixRole role);

/// All matrices and all norms that checkpoints of this configuration have. A tied head is none of them.
std::vector<MatrixId> matrices_of(const ModelConfig& config);
std::vector<NormRole> layer_norms_of(const ModelConfig& config);

/// The places of one configuration's tensors in files of `layout`, which may be another than the configuration's own.
/// Immutable, any thread. Both arguments outlive it.
class TensorPlaces {
 public:
  TensorPlaces(const ModelConfig& config, const TensorLayout& layout);

  MatrixPlace matrix(MatrixId id) const;
  std::string norm(NormRole role, int layer) const;  ///< without suffix
  HeadNormPlace q_norm(int layer) const;
  HeadNormPlace k_norm(int layer) const;
  std::string sinks(int layer) const;  ///< without suffix
  const TensorLayout& layout() const { return layout_; }

 private:
  std::string in_layer(int layer, const char* part) const;
  MatrixPlace qkv_place(MatrixId id) const;
  MatrixPlace mlp_place(MatrixId id, const char* own, const char* fused, int64_t intermediate) const;
  MatrixPlace expert_place(MatrixId id, const char* own, const char* fused) const;
  HeadNormPlace head_norm(const std::string& name, int heads) const;

  const ModelConfig& config_;
  const TensorLayout& layout_;
  const TensorNames& names_;
};

}  // namespace pagoda

// Which way each product is computed: by one of cuBLASLt's algorithms or by our own kernel, for every number of tokens. Plain
// data and the rule that chooses from measurements; made by GemmTuner, kept by GemmCache, followed by Gemm.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "cuda/cublaslt.h"
#include "cuda/matrix.h"

namespace pagoda::cuda {

/// Products with weights of one size: out[T, rows] = x[T, cols] * weight^T for T up to `max_tokens`.
struct GemmShape {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  ///< of the weight's rows
  DType out = DType::bf16;
  int64_t max_tokens = 0;
  MatrixFormat format = MatrixFormat::bf16;  ///< or f8

  bool operator==(const GemmShape&) const = default;
};

/// A way for up to `max_tokens` tokens, and more than the bucket before it has.
struct GemmBucket {
  int64_t max_tokens = 0;
  std::optional<lt::Algorithm> algorithm;  ///< none: our own kernel

  bool operator==(const GemmBucket&) const = default;
};

struct GemmPlan {
  GemmShape shape;
  bool deterministic = false;       ///< all buckets sum in one order
  std::vector<GemmBucket> buckets;  ///< ascending, of gemm_bucket_sizes; empty: our own kernel computes this shape

  bool operator==(const GemmPlan&) const = default;
};

/// 1, 8, 16, 32, ... below `max_tokens` (at least 1), and `max_tokens`.
std::vector<int64_t> gemm_bucket_sizes(int64_t max_tokens);

/// One way that was tried in one bucket.
struct GemmTrial {
  std::optional<lt::Algorithm> algorithm;  ///< none: our own kernel
  double microseconds = 0;
  int order = 0;  ///< ways of equal order give equal bits for equal rows, in all buckets
};

/// Of each bucket's trials the index of the fastest.
std::vector<size_t> choose_fastest(std::span<const std::vector<GemmTrial>> buckets);
/// The same among trials of one order: the one that is slowed down least, over all buckets, against the fastest trials. Empty
/// if no order occurs in every bucket.
std::vector<size_t> choose_one_order(std::span<const std::vector<GemmTrial>> buckets);

}  // namespace pagoda::cuda

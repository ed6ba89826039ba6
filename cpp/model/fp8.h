// Checkpoints in 8-bit floats e4m3: "fp8" (per tensor, per row, or blocks as DeepSeek and Qwen3 have them) and "fbgemm_fp8".
// Their weights are read as they are; the 8-bit inputs that they were made for are not: inputs keep the engine's precision.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "backend/weight.h"
#include "core/json.h"
#include "io/weight_source.h"
#include "model/quantised_tensors.h"

namespace pagoda {

/// A matrix of e4m3 values whose scales stand for `rows_per_scale` rows (in `scales`) and `cols_per_scale` columns. The columns
/// are multiples of 32. Throws InvalidArgument naming the tensor when they are not.
WeightPart f8_part(const WeightSource& source, const std::string& name, const TensorBytes& weights, const ScaleTable& scales,
                   int64_t cols_per_scale);

/// The shapes of one scale for a matrix, and of one for each of its rows.
std::vector<TensorShape> scalar_shapes();
std::vector<TensorShape> row_scale_shapes(int64_t rows);

/// Keeps a matrix as weight F8_E4M3 [rows, cols] with weight_scale_inv (which is a factor all the same) or weight_scale.
class Fp8 {
 public:
  /// `config` is the object quantization_config, `method` "fp8" or "fbgemm_fp8". Throws InvalidArgument naming the field.
  Fp8(std::string method, const Json& config);

  /// As HfQuantisation::find.
  std::optional<WeightPart> find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const;

  std::string describe() const;

 private:
  std::string method_;
  int64_t block_rows_ = 0;  // 0: no blocks
  int64_t block_cols_ = 0;
};

}  // namespace pagoda

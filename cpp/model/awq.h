// Checkpoints of AutoAWQ (and of GPTQModel's awq): 4-bit integers with scales and zeros, packed for its matrix product "gemm".
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "backend/weight.h"
#include "core/json.h"
#include "io/weight_source.h"

namespace pagoda {

/// Keeps a matrix transposed, eight adjacent rows to a word: qweight I32 [cols, rows/8], qzeros I32 [cols/group, rows/8],
/// scales [cols/group, rows].
class Awq {
 public:
  /// `config` is the object quantization_config. Throws InvalidArgument naming the field.
  explicit Awq(const Json& config);

  /// As HfQuantisation::find.
  std::optional<WeightPart> find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const;

  std::string describe() const;

 private:
  int64_t group_size_;  // -1: a row is one group
  bool zero_point_;     // false: there may be no qzeros, all zeros are 8 then
};

}  // namespace pagoda

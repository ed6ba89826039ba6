// Checkpoints of gpt-oss as released ("mxfp4"): the experts in 4-bit floats, everything else plain.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "backend/weight.h"
#include "io/weight_source.h"

namespace pagoda {

/// One of several matrices in one tensor.
struct StackPlace {
  int64_t index = 0;
  int64_t count = 0;
};

/// Keeps the experts' matrices of a layer as name_blocks U8 [experts, rows, cols / 32, 16], two values to a byte, the first in
/// the lower half, and name_scales U8 [experts, rows, cols / 32], the exponents of their factors 2^(byte - 127).
class Mxfp4 {
 public:
  /// As HfQuantisation::find: such a checkpoint's other matrices are plain.
  std::optional<WeightPart> find(const WeightSource&, const std::string&, int64_t, int64_t) const { return std::nullopt; }

  /// As HfQuantisation::find_in_stack.
  std::optional<WeightPart> find_in_stack(const WeightSource& source, const std::string& name, StackPlace place, int64_t rows,
                                          int64_t cols) const;

  std::string describe() const { return "mxfp4, blocks of 32"; }
};

}  // namespace pagoda

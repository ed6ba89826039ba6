// The plain reference for what the stored formats mean: one row of numbers to floats. The tests of every backend's packed
// kernels and tools that show weights use it; the forward pass does not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace pagoda {

/// Writes the `cols` values of one stored row to `out[cols]`. `row` needs no alignment and has weight_row_bytes(format, cols)
/// bytes; `cols` is a multiple of the format's block. The result is exact: every product of a 16-bit scale and a quantised
/// value fits a float.
void dequantise_row(WeightFormat format, const std::byte* row, int64_t cols, float* out);

}  // namespace pagoda

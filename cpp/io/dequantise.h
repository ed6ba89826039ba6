// The plain reference for what the stored formats mean: one row of numbers to floats. The tests of every backend's packed
// kernels and tools that show weights use it; the forward pass does not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace pagoda {

/// Writes the `cols` values of one stored row to `out[cols]`. `row` needs no alignment and has weight_row_bytes(format, cols)
/// bytes; `cols` is a multiple of the format's block. Any bytes are a row of numbers: a scale that is infinite or NaN gives
/// values that are. For the formats of GGUF the result is bit for bit what the `gguf` package computes, but for the payload of
/// a NaN.
void dequantise_row(WeightFormat format, const std::byte* row, int64_t cols, float* out);

}  // namespace pagoda

// Floats to stored rows, each value to its nearest code: what `weight_format: q8_0` does on load and `enginectl convert` on
// disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/weight_format.h"

namespace pagoda {

/// Whether quantise_row can write the format: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, f8_e4m3, int8 and int4 have one
/// plain rounding; the others need a search for good scales.
bool can_quantise(WeightFormat format);

/// "f32, f16, ..." for error texts: all formats that quantise_row can write.
std::string quantisable_formats();

/// Writes `values[cols]` as one stored row of weight_row_bytes(format, cols) bytes to `out`, which needs no alignment. `cols`
/// is a multiple of the format's block. Throws InvalidArgument for a format that cannot be written.
///
/// f16 and bf16 round to nearest even; beyond f16's range is infinity; infinities and NaNs stay what they are. The formats of
/// GGUF are bit for bit those of the `gguf` package, also where a scale beyond f16's range becomes infinite. Blocks of f8_e4m3
/// and int8 put the largest magnitude at 448 and 127, blocks of int4 spread [min(0, smallest), max(0, largest)] over 0 to 15.
/// A block of a quantised format that holds an infinity or a NaN, or whose range is beyond a float, gets a NaN as scale and so
/// decodes to NaNs: the damage shows wherever the weight is used.
void quantise_row(WeightFormat format, const float* values, int64_t cols, std::byte* out);

}  // namespace pagoda

// A matrix of integers with scales, however a checkpoint packs them, and how its rows are made in a format of the engine.
// Filled by awq.cc, gptq.cc and compressed_tensors.cc.
#pragma once

#include <cstdint>
#include <functional>

#include "backend/weight.h"
#include "model/quantised_tensors.h"

namespace pagoda {

/// value[row][k] = scales(row, g) * (q[row][k] - zero(row, g)), where g is the group of column k and q in [0, 2^bits).
struct IntegerMatrix {
  int bits;  ///< 4 or 8
  int64_t rows;
  int64_t cols;
  std::function<void(int64_t row, uint8_t* out)> unpack;  ///< writes q[row][0..cols)
  ScaleTable scales;
  ColumnGroups groups;
  std::function<int(int64_t row, int64_t group)> zero;  ///< in [0, 2^bits); null: 2^(bits - 1) everywhere
};

/// The matrix as rows to be made on demand, in the smallest format that keeps every value: q4_0 or int4, q8_0 or int8. Where
/// there is none, because groups do not fit blocks of 32 columns or 8-bit numbers have other zeros than 128, each value is
/// multiplied out: rounded to f16 if the scales are f16, as the kernels of the methods' own packages do, else in f32.
/// Reads the zeros that the format depends on, and no scale or weight.
WeightPart integer_part(IntegerMatrix matrix);

}  // namespace pagoda

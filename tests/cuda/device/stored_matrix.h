// Weights as a file stores them, of random numbers, and the products that tests make with them on any machine.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "core/weight_format.h"
#include "device_support.h"
#include "io/quantise.h"

namespace pagoda::device_test {

/// A part of a weight: rows of random values about 1 / sqrt(cols) in size, so that products are about as large as their input.
class StoredMatrix {
 public:
  StoredMatrix(WeightFormat format, int64_t rows, int64_t cols, unsigned seed) : format_(format), rows_(rows), cols_(cols) {
    const std::vector<float> values = random_values(rows * cols, seed, 1 / std::sqrt(static_cast<float>(cols)));
    const size_t row_bytes = weight_row_bytes(format, cols);
    stored_.resize(static_cast<size_t>(rows) * row_bytes);
    for (int64_t row = 0; row < rows; ++row) {
      quantise_row(format, values.data() + row * cols, cols, stored_.data() + static_cast<size_t>(row) * row_bytes);
    }
  }

  WeightPart part() const { return {format_, rows_, cols_, stored_.data(), {}, nullptr, one_scale_per_row_}; }

  /// Of f8_e4m3: gives all blocks of a row the scale of its first one.
  StoredMatrix&& with_one_scale_per_row() && {
    const WeightFormatInfo info = weight_format_info(format_);
    const size_t row_bytes = weight_row_bytes(format_, cols_);
    for (size_t at = 0; at < stored_.size(); at += info.block_bytes) {
      std::memcpy(stored_.data() + at, stored_.data() + at / row_bytes * row_bytes, sizeof(float));
    }
    one_scale_per_row_ = true;
    return std::move(*this);
  }

 private:
  WeightFormat format_;
  int64_t rows_, cols_;
  bool one_scale_per_row_ = false;
  std::vector<std::byte> stored_;
};

/// The parts stacked, in the machine's memory.
inline Weight pack(Machine& machine, const std::vector<StoredMatrix>& matrices) {
  std::vector<WeightPart> parts;
  for (const StoredMatrix& matrix : matrices) parts.push_back(matrix.part());
  return machine->pack(parts);
}

inline void multiply(Machine& machine, const Tensor& out, const Tensor& x, const Weight& weight, const float* bias) {
  void* workspace = machine.memory(machine->traits().linear_workspace(x.rows(), weight.rows, weight.cols, weight.part_formats));
  machine->linear(out, x, weight, bias, workspace);
}

}  // namespace pagoda::device_test

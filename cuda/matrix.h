// A weight matrix as it lies in the GPU's memory. Made by pack.cc, read by embed.cu, linear.cu and grouped_linear.cu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pagoda::cuda {

/// Row-major, rows `stride` values apart (a multiple of 64, zeros behind `cols`). Quantised values come in blocks of 32 along a
/// row with scales[rows][stride / 32]:
///   bf16: values bf16
///   q8:   values int8; scale f16 d:                          value = d * q
///   q4:   values two to a byte, value i of a block in the low half of byte i for i < 16, in the high half of byte i - 16
///         otherwise; scale f16 d, f16 m:                     value = d * n + m
enum class MatrixFormat : uint8_t { bf16, q8, q4 };

/// Plain data: kernels take it by value. The memory belongs to the Weight that the backend made.
struct Matrix {
  MatrixFormat format = MatrixFormat::bf16;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  const void* values = nullptr;  ///< 256-byte aligned
  const void* scales = nullptr;  ///< 256-byte aligned; null for bf16
};

constexpr int64_t matrix_stride(int64_t cols) { return (cols + 63) / 64 * 64; }
constexpr size_t matrix_value_bytes(MatrixFormat format, int64_t values) {
  return static_cast<size_t>(format == MatrixFormat::bf16 ? 2 * values : format == MatrixFormat::q8 ? values : values / 2);
}
constexpr size_t matrix_scale_bytes(MatrixFormat format, int64_t values) {
  return static_cast<size_t>(format == MatrixFormat::bf16 ? 0 : format == MatrixFormat::q8 ? values / 16 : values / 8);
}

}  // namespace pagoda::cuda

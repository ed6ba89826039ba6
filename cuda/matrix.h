// A weight matrix as it lies in the GPU's memory. Made by pack.cc, read by embed.cu, linear.cu and grouped_linear.cu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pagoda::cuda {

/// Row-major, rows `stride` values apart (a multiple of 64, zeros behind `cols`). Of most quantised formats, values come in
/// blocks of 32 along a row with scales[rows][stride / 32]:
///   bf16:      values bf16
///   q8:        values int8; scale f16 d:                     value = d * q
///   q4:        values two to a byte, value i of a block in the low half of byte i for i < 16, in the high half of byte i - 16
///              otherwise; scale f16 d, f16 m:                value = d * n + m
///   f8:        values e4m3; one scale f32 d for each row:    value = d * q
///   f8_blocks: values e4m3; scale f32 d:                     value = d * q
/// Where an e4m3 is no number, its d is none: the kernels need not look at values for it.
enum class MatrixFormat : uint8_t { bf16, q8, q4, f8, f8_blocks };
constexpr int kNumMatrixFormats = 5;

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
  return static_cast<size_t>(format == MatrixFormat::bf16 ? 2 * values : format == MatrixFormat::q4 ? values / 2 : values);
}
/// Bytes of a block's scales; 0 where there are none or a row has one scale.
constexpr int matrix_block_scale_bytes(MatrixFormat format) {
  constexpr int kBytes[kNumMatrixFormats] = {0, 2, 4, 0, 4};
  return kBytes[static_cast<int>(format)];
}
constexpr size_t matrix_scale_bytes(MatrixFormat format, int64_t rows, int64_t stride) {
  return static_cast<size_t>(format == MatrixFormat::f8 ? 4 * rows : rows * (stride / 32) * matrix_block_scale_bytes(format));
}

}  // namespace pagoda::cuda

// Random weight matrices in the formats of cuda/matrix.h, and products with them in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "cuda/matrix.h"
#include "emulation_support.h"
#include "io/code_values.h"

namespace pagoda::cuda {

constexpr MatrixFormat kMatrixFormats[] = {MatrixFormat::bf16, MatrixFormat::q8, MatrixFormat::q4, MatrixFormat::f8,
                                           MatrixFormat::f8_blocks};

inline const char* matrix_format_name(MatrixFormat format) {
  constexpr const char* kNames[kNumMatrixFormats] = {"bf16", "q8", "q4", "f8", "f8_blocks"};
  return kNames[static_cast<int>(format)];
}

/// Memory aligned like the device's and zero; what lies behind it is out of bounds for AddressSanitizer.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, std::max<size_t>(bytes, 1))) throw std::bad_alloc();
    data_.reset(static_cast<std::byte*>(memory));
    std::fill_n(data_.get(), bytes, std::byte{0});
  }
  std::byte* data() const { return data_.get(); }

 private:
  static constexpr size_t kAlignment = 256;
  std::unique_ptr<std::byte, void (*)(void*)> data_{nullptr, std::free};
};

/// A matrix of values about 1 / sqrt(cols) in size. What lies behind `cols` is zero.
class HostMatrix {
 public:
  HostMatrix(MatrixFormat format, int64_t rows, int64_t cols, std::mt19937& random)
      : matrix_{format, rows, cols, matrix_stride(cols), nullptr, nullptr},
        values_(matrix_value_bytes(format, rows * matrix_stride(cols))),
        scales_(matrix_scale_bytes(format, rows, matrix_stride(cols))) {
    matrix_.values = values_.data();
    matrix_.scales = format == MatrixFormat::bf16 ? nullptr : scales_.data();
    const float size = 1 / std::sqrt(static_cast<float>(cols));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t block = 0; block < matrix_.stride / 32; ++block) fill_block(row, block, size, random);
    }
  }

  const Matrix& matrix() const { return matrix_; }

  /// The value that a product sees: rounded to bf16, zero behind `cols`; of f8 without the row's scale.
  float value(int64_t row, int64_t col) const {
    const int64_t at = row * matrix_.stride + col, block = at / 32, i = at % 32;
    switch (matrix_.format) {
      case MatrixFormat::bf16:
        return bf16_to_float(get<uint16_t>(values_, at));
      case MatrixFormat::q8:
        return round(scale(block) * static_cast<float>(get<int8_t>(values_, at)));
      case MatrixFormat::q4: {
        const uint8_t byte = get<uint8_t>(values_, 16 * block + i % 16);
        const int n = i < 16 ? byte & 0xf : byte >> 4;
        return round(std::fma(scale(2 * block), static_cast<float>(n), scale(2 * block + 1)));
      }
      case MatrixFormat::f8:
        return e4m3_to_float(get<uint8_t>(values_, at));
      case MatrixFormat::f8_blocks:
        return round(get<float>(scales_, block) * e4m3_to_float(get<uint8_t>(values_, at)));
    }
    return 0;
  }

  /// What the sums of a row are multiplied by.
  float row_scale(int64_t row) const { return matrix_.format == MatrixFormat::f8 ? get<float>(scales_, row) : 1.0f; }

  /// Sets a block that is not bf16: its scales and the codes of its 32 values (q8: as signed, q4: below 16). f8: the row's.
  void set_block(int64_t row, int64_t block, float d, float m, std::span<const int> codes) {
    const int64_t at = row * matrix_.stride / 32 + block;
    for (int i = 0; i < 32; ++i) {
      if (matrix_.format != MatrixFormat::q4) {
        put(values_, 32 * at + i, static_cast<uint8_t>(codes[static_cast<size_t>(i)]));
      } else {
        const int64_t place = 16 * at + i % 16;
        const auto before = i < 16 ? uint8_t{0} : get<uint8_t>(values_, place);
        put(values_, place, static_cast<uint8_t>(before | codes[static_cast<size_t>(i)] << (i < 16 ? 0 : 4)));
      }
    }
    if (matrix_.format == MatrixFormat::q8) return put(scales_, at, float_to_f16(d));
    if (matrix_.format != MatrixFormat::q4) return put(scales_, matrix_.format == MatrixFormat::f8 ? row : at, d);
    put(scales_, 2 * at, float_to_f16(d));
    put(scales_, 2 * at + 1, float_to_f16(m));
  }

 private:
  template <class T>
  static T get(const AlignedBytes& bytes, int64_t at) {
    T value;
    std::memcpy(&value, bytes.data() + static_cast<size_t>(at) * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  static void put(AlignedBytes& bytes, int64_t at, T value) {
    std::memcpy(bytes.data() + static_cast<size_t>(at) * sizeof(T), &value, sizeof(T));
  }
  static float round(float value) { return bf16_to_float(float_to_bf16(value)); }
  float scale(int64_t at) const { return f16_to_float(get<uint16_t>(scales_, at)); }

  void fill_block(int64_t row, int64_t block, float size, std::mt19937& random) {
    std::normal_distribution<float> normal(0, size);
    const int64_t used = std::min<int64_t>(32, matrix_.cols - 32 * block);
    if (matrix_.format == MatrixFormat::bf16) {
      for (int64_t i = 0; i < used; ++i) {
        put(values_, row * matrix_.stride + 32 * block + i, float_to_bf16(normal(random)));
      }
      return;
    }
    if (used <= 0) return;
    const bool q8 = matrix_.format == MatrixFormat::q8;
    std::vector<int> codes(32, 0);
    if (matrix_.format == MatrixFormat::f8 || matrix_.format == MatrixFormat::f8_blocks) {
      for (int64_t i = 0; i < used; ++i) codes[static_cast<size_t>(i)] = float_to_e4m3(100 * normal(random) / size);
      return set_block(row, block, size * (1 + static_cast<float>((row + block) % 5)) / 300, 0, codes);
    }
    std::uniform_int_distribution<int> code(q8 ? -127 : 0, q8 ? 127 : 15);
    for (int64_t i = 0; i < used; ++i) codes[static_cast<size_t>(i)] = code(random);
    const float d = normal(random) / (q8 ? 70.0f : 5.0f);
    set_block(row, block, d, -7.5f * d + normal(random) / 4, codes);
  }

  Matrix matrix_;
  AlignedBytes values_, scales_;
};

/// One element of x * weight^T and what it may be off by in f32: a few roundings of the sum of the products' sizes.
struct Product {
  double value = 0, error = 0;
};
inline Product exact_product(const HostMatrix& weight, int64_t row, const HostTensor& x, int64_t token) {
  double sum = 0, size = 0;
  for (int64_t col = 0; col < weight.matrix().cols; ++col) {
    const double product = double{weight.value(row, col)} * double{x.get(token, col)};
    sum += product;
    size += std::abs(product);
  }
  const double scale = weight.row_scale(row);
  return {scale * sum, 4e-6 * std::abs(scale) * size + 1e-30};
}

}  // namespace pagoda::cuda

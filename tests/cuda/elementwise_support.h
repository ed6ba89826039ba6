// What the tests of operations on rows share: tensors that are windows of wider ones, aligned or not, and comparisons of their
// rows.
#pragma once

#include <algorithm>
#include <functional>

#include "emulation_support.h"

namespace pagoda::cuda {

inline constexpr int64_t kTokens[] = {1, 2, 7, 40};

/// Columns in front of a window and behind it; kWhole on one side: as many behind it as make rows multiples of 16 bytes.
struct Margins {
  int64_t before = 0, after = 0;
};
inline constexpr int64_t kWhole = -1;
/// Dense; aligned within wider rows if the columns are a multiple of 8; aligned whatever the columns are; unaligned; odd
/// strides.
inline constexpr Margins kMargins[] = {{0, 0}, {8, 16}, {0, kWhole}, {3, 5}, {0, 1}};

/// [rows, cols] in the middle of a wider tensor.
class Window {
 public:
  /// Everything NaN.
  Window(DType dtype, int64_t rows, int64_t cols, Margins margins = {})
      : before_(std::max<int64_t>(margins.before, 0)), cols_(cols), wide_(dtype, rows, width(cols, margins)) {}
  /// Normally distributed values around `mean`, NaN around the window.
  static Window random(DType dtype, int64_t rows, int64_t cols, Margins margins, std::mt19937& random, float scale = 1,
                       float mean = 0) {
    Window window(dtype, rows, cols, margins);
    std::normal_distribution<float> normal(mean, scale);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) window.set(i, j, normal(random));
    }
    return window;
  }

  int64_t rows() const { return wide_.rows; }
  int64_t cols() const { return cols_; }
  float get(int64_t row, int64_t col) const { return wide_.get(row, before_ + col); }
  void set(int64_t row, int64_t col, float value) { wide_.set(row, before_ + col, value); }
  Tensor view() { return rows_view(0, rows()); }
  Tensor rows_view(int64_t begin, int64_t end) {
    Tensor all = wide_.view();
    return Tensor{all.row<std::byte>(0) + static_cast<size_t>(begin * all.row_stride) * dtype_bytes(all.dtype),
                  all.dtype,
                  {end - begin, wide_.cols},
                  all.row_stride}
        .columns(before_, before_ + cols_);
  }
  bool operator==(const Window& other) const { return wide_ == other.wide_; }

  /// Whether all columns beside the window are as they were made.
  bool margins_are_untouched() const {
    const HostTensor fresh(wide_.dtype, wide_.rows, wide_.cols);
    const size_t bytes = dtype_bytes(wide_.dtype);
    for (size_t i = 0; i < wide_.bytes.size(); ++i) {
      const int64_t col = static_cast<int64_t>(i / bytes) % wide_.cols - before_;
      if ((col < 0 || col >= cols_) && wide_.bytes[i] != fresh.bytes[i]) return false;
    }
    return true;
  }

 private:
  static int64_t width(int64_t cols, Margins margins) {
    if (margins.before == kWhole || margins.after == kWhole) return divide_up(cols, 8) * 8;
    return margins.before + cols + margins.after;
  }

  int64_t before_, cols_;
  HostTensor wide_;
};

/// What decides how far apart a type's values lie.
struct Precision {
  int mantissa_bits = 7, smallest_exponent = -126;
};
inline constexpr Precision kBf16Precision{7, -126}, kF16Precision{10, -14}, kE4m3Precision{3, -6};

/// Whether `got` is one of the type's values nearest to expected +- slack.
inline bool is_rounded(double expected, double got, double slack = 1e-6, Precision precision = kBf16Precision) {
  const int exponent =
      expected == 0 ? precision.smallest_exponent : std::max(std::ilogb(expected), precision.smallest_exponent);
  return std::abs(got - expected) <= std::ldexp(1, exponent - precision.mantissa_bits - 1) + slack;
}

/// expected(row, col) against all values of `got`.
inline void expect_rounded(const Window& got, const std::function<double(int64_t, int64_t)>& expected, double slack = 1e-6) {
  for (int64_t i = 0; i < got.rows(); ++i) {
    for (int64_t j = 0; j < got.cols(); ++j) {
      ASSERT_TRUE(is_rounded(expected(i, j), got.get(i, j), slack))
          << "row " << i << " of " << got.rows() << ", column " << j << " of " << got.cols() << ": " << got.get(i, j)
          << " instead of " << expected(i, j);
    }
  }
  EXPECT_TRUE(got.margins_are_untouched());
}

}  // namespace pagoda::cuda

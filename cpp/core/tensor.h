// A view of a dense, row-major array in some backend's memory. It never owns what it points to.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/check.h"
#include "core/dtype.h"

namespace pagoda {

/// Up to three dimensions; the last one is contiguous.
class Shape {
 public:
  static constexpr int kMaxRank = 3;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    ensure(dims.size() <= kMaxRank, "a shape has at most ", kMaxRank, " dimensions, got ", dims.size());
    for (int64_t dim : dims) dims_[rank_++] = dim;
  }

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[axis]; }
  int64_t last() const { return rank_ ? dims_[rank_ - 1] : 1; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  bool operator==(const Shape& other) const = default;

  std::string to_string() const {
    std::string text = "[";
    for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dims_[i]);
    return text + "]";
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// A view: pointer, element type, shape, and the distance between rows in elements (>= the last dimension).
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  int64_t row_stride = 0;

  static Tensor dense(void* data, DType dtype, Shape shape) { return {data, dtype, shape, shape.last()}; }

  int64_t rows() const { return shape.last() ? shape.numel() / shape.last() : 0; }
  int64_t cols() const { return shape.last(); }

  /// Columns [begin, end) of every row, as a view with the same row stride.
  Tensor columns(int64_t begin, int64_t end) const {
    ensure(shape.rank() == 2 && 0 <= begin && begin <= end && end <= cols(), "columns [", begin, ", ", end, ") of ",
           shape.to_string());
    return {
        static_cast<char*>(data) + static_cast<size_t>(begin) * dtype_bytes(dtype), dtype, {shape[0], end - begin}, row_stride};
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  template <class T>
  T* row(int64_t i) const {
    return static_cast<T*>(data) + i * row_stride;
  }
};

}  // namespace pagoda

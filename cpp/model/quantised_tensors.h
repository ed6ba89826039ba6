// What the readers of quantised Hugging Face checkpoints share: looking up the tensors of a matrix with checks whose errors
// name them, the scales, and which columns share one. Called by awq.cc, gptq.cc, compressed_tensors.cc and fp8.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_source.h"

namespace pagoda {

using TensorShape = std::vector<int64_t>;

/// ceil(a / b) for a >= 0, b >= 1.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/// The tensor, in one of `types`. Throws InvalidArgument naming it when it is missing or of another type.
TensorBytes require_tensor(const WeightSource& source, const std::string& name, std::initializer_list<std::string_view> types);

/// The place in `shapes` of the first that the tensor has. Throws InvalidArgument naming the tensor, its shape and all of them.
size_t require_shape(const WeightSource& source, const std::string& name, const TensorBytes& tensor,
                     const std::vector<TensorShape>& shapes);

/// require_tensor and require_shape with one shape.
TensorBytes require_tensor(const WeightSource& source, const std::string& name, std::initializer_list<std::string_view> types,
                           const TensorShape& shape);

/// A tensor of scales, of any shape.
TensorBytes require_scales(const WeightSource& source, const std::string& name);

/// Whether a matrix of this type is not quantised: "F32", "F16", "BF16".
bool is_plain_type(std::string_view type);

/// Element `index` of a tensor of 32-bit integers, as its bits.
uint32_t load_word(const TensorBytes& tensor, int64_t index);

/// The matrix of scales: which of its numbers belongs to a row and a group of columns. Keeps pointing into the source.
class ScaleTable {
 public:
  /// Where the scale of a row and a group stands: row / rows_per_scale * row_stride + group * group_stride.
  struct Layout {
    int64_t rows_per_scale = 1;
    int64_t row_stride = 0;
    int64_t group_stride = 0;
  };

  ScaleTable(const TensorBytes& tensor, Layout layout);

  float at(int64_t row, int64_t group) const;
  bool is_f16() const { return type_ == Type::f16; }  ///< whether every scale is an f16 number

 private:
  enum class Type { f32, f16, bf16, e8m0 };

  const std::byte* data_;
  Type type_;
  Layout layout_;
};

/// Which columns of a matrix share a scale: `size` adjacent ones, or what a table says.
class ColumnGroups {
 public:
  /// Adjacent groups; the last may be shorter. `size` >= 1.
  ColumnGroups(int64_t cols, int64_t size) : cols_(cols), size_(size), count_(ceil_div(cols, size)) {}

  /// As above, unless the source has a tensor `name`: the group of every column (I32 [cols]), for weights quantised in the
  /// order of their activations. A table that holds nothing but 0 or nothing but -1 was never filled in and stands for adjacent
  /// groups. Throws InvalidArgument for another type or shape and for a group that does not exist.
  static ColumnGroups read(const WeightSource& source, const std::string& name, int64_t cols, int64_t size);

  int64_t count() const { return count_; }
  int64_t of(int64_t col) const { return table_.empty() ? col / size_ : table_[static_cast<size_t>(col)]; }

  /// Whether the columns are a multiple of 32 and every block of 32 has one scale.
  bool fit_blocks() const;

 private:
  int64_t cols_;
  int64_t size_;
  int64_t count_;
  std::vector<int32_t> table_;
};

}  // namespace pagoda

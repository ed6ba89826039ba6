// Lookups and scales of quantised checkpoints. Nothing of a tensor's data is read but what the caller asks for.
#include "model/quantised_tensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/dtype.h"
#include "core/weight_format.h"
#include "io/tensor_table.h"

namespace pagoda {
namespace {

template <class T>
T load(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + static_cast<size_t>(index) * sizeof value, sizeof value);
  return value;
}

template <class List, class Text>
std::string join_or(const List& list, const Text& text) {
  std::string joined;
  for (const auto& item : list) joined += (joined.empty() ? "" : " or ") + text(item);
  return joined;
}

/// 2^(byte - 127); 255 is NaN.
float e8m0_to_float(uint8_t byte) {
  if (byte == 255) return std::bit_cast<float>(0x7fc00000u);
  return byte == 0 ? 0x1p-127f : std::bit_cast<float>(uint32_t{byte} << 23);
}

}  // namespace

TensorBytes require_tensor(const WeightSource& source, const std::string& name, std::initializer_list<std::string_view> types) {
  const std::optional<TensorBytes> tensor = source.find_bytes(name);
  require(tensor.has_value(), source.describe(), ": tensor ", name, " is missing");
  require(std::find(types.begin(), types.end(), tensor->type) != types.end(), source.describe(), ": tensor ", name,
          " has type ", tensor->type, ", expected ", join_or(types, [](std::string_view type) { return std::string(type); }));
  return *tensor;
}

size_t require_shape(const WeightSource& source, const std::string& name, const TensorBytes& tensor,
                     const std::vector<TensorShape>& shapes) {
  const auto found = std::find(shapes.begin(), shapes.end(), tensor.shape);
  require(found != shapes.end(), source.describe(), ": tensor ", name, " has shape ", shape_text(tensor.shape), ", expected ",
          join_or(shapes, shape_text), " from the model and quantisation configurations");
  return static_cast<size_t>(found - shapes.begin());
}

TensorBytes require_tensor(const WeightSource& source, const std::string& name, std::initializer_list<std::string_view> types,
                           const TensorShape& shape) {
  const TensorBytes tensor = require_tensor(source, name, types);
  require_shape(source, name, tensor, {shape});
  return tensor;
}

TensorBytes require_scales(const WeightSource& source, const std::string& name) {
  return require_tensor(source, name, {"F32", "F16", "BF16", "F8_E8M0"});
}

bool is_plain_type(std::string_view type) { return type == "F32" || type == "F16" || type == "BF16"; }

uint32_t load_word(const TensorBytes& tensor, int64_t index) { return load<uint32_t>(tensor.data, index); }

ScaleTable::ScaleTable(const TensorBytes& tensor, Layout layout) : data_(tensor.data), layout_(layout) {
  type_ = tensor.type == "F32" ? Type::f32 : tensor.type == "F16" ? Type::f16 : tensor.type == "BF16" ? Type::bf16 : Type::e8m0;
  ensure(type_ != Type::e8m0 || tensor.type == "F8_E8M0", "a tensor of scales of type ", tensor.type);
}

float ScaleTable::at(int64_t row, int64_t group) const {
  const int64_t index = row / layout_.rows_per_scale * layout_.row_stride + group * layout_.group_stride;
  switch (type_) {
    case Type::f32:
      return load<float>(data_, index);
    case Type::f16:
      return f16_to_float(load<uint16_t>(data_, index));
    case Type::bf16:
      return bf16_to_float(load<uint16_t>(data_, index));
    case Type::e8m0:
      break;
  }
  return e8m0_to_float(load<uint8_t>(data_, index));
}

ColumnGroups ColumnGroups::read(const WeightSource& source, const std::string& name, int64_t cols, int64_t size) {
  ColumnGroups groups(cols, size);
  if (!source.find_bytes(name)) return groups;
  const TensorBytes tensor = require_tensor(source, name, {"I32"}, {cols});
  std::vector<int32_t> table(static_cast<size_t>(cols));
  std::memcpy(table.data(), tensor.data, table.size() * sizeof(int32_t));
  const bool constant = std::adjacent_find(table.begin(), table.end(), std::not_equal_to<>()) == table.end();
  if (constant && (table[0] == 0 || table[0] == -1)) return groups;
  for (size_t k = 0; k < table.size(); ++k) {
    require(table[k] >= 0 && table[k] < groups.count_, source.describe(), ": tensor ", name, ": column ", k, " is in group ",
            table[k], ", but there are ", groups.count_, " groups");
  }
  groups.table_ = std::move(table);
  return groups;
}

bool ColumnGroups::fit_blocks() const {
  if (cols_ % kBlockValues != 0) return false;
  for (int64_t k = 0; k < cols_; ++k) {
    if (of(k) != of(k / kBlockValues * kBlockValues)) return false;
  }
  return true;
}

}  // namespace pagoda

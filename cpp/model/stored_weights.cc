// Descriptions of stored matrices. Everything that changes rows is a RowReader around another part.
#include "model/stored_weights.h"

#include <cstring>
#include <memory>
#include <utility>

#include "core/check.h"
#include "io/dequantise.h"
#include "io/quantise.h"
#include "io/tensor_table.h"

namespace pagoda {
namespace {

/// Stored row `row` of a part: where it lies, or `scratch` filled with it.
const std::byte* stored_row(const WeightPart& part, int64_t row, std::vector<std::byte>& scratch) {
  const size_t bytes = weight_row_bytes(part.format, part.cols);
  if (!part.read) return part.data + static_cast<size_t>(row) * bytes;
  scratch.resize(bytes);
  part.read(row, scratch.data());
  return scratch.data();
}

/// The part of a plain matrix stored as [cols, rows]: its rows are gathered column by column.
WeightPart transposed_part(WeightPart part) {
  require(!is_quantised(part.format), "a transposed matrix cannot be stored in ", weight_format_info(part.format).name);
  const size_t value_bytes = weight_format_info(part.format).block_bytes;
  const size_t stride = static_cast<size_t>(part.rows) * value_bytes;
  const std::byte* data = std::exchange(part.data, nullptr);
  part.read = [data, value_bytes, stride, cols = part.cols](int64_t row, std::byte* out) {
    const std::byte* from = data + static_cast<size_t>(row) * value_bytes;
    for (int64_t k = 0; k < cols; ++k, from += stride, out += value_bytes) std::memcpy(out, from, value_bytes);
  };
  return part;
}

}  // namespace

std::string StoredWeights::weight_name(const std::string& base) const {
  std::string name = base + ".weight";
  return !source_.find_bytes(name) && source_.find_bytes(base) ? base : name;
}

std::string StoredWeights::bias_name(const std::string& base) const {
  std::string name = base + ".bias", joined = base + "_bias";
  return !source_.find_bytes(name) && source_.find_bytes(joined) ? joined : name;
}

const StoredTensor& StoredWeights::find(const std::string& name) const {
  const StoredTensor* tensor = source_.find(name);
  require(tensor, source_.describe(), ": tensor ", name, " is missing");
  return *tensor;
}

std::optional<WeightPart> StoredWeights::quantised(const MatrixRequest& request) const {
  if (!quantisation_) return std::nullopt;
  if (request.count == 0) return quantisation_->find(source_, request.name, request.rows, request.cols);
  return quantisation_->find_in_stack(source_, request.name, {request.index, request.count}, request.rows, request.cols);
}

WeightPart StoredWeights::matrix(const MatrixRequest& request) const {
  if (std::optional<WeightPart> part = quantised(request)) return *part;
  std::vector<int64_t> shape{request.rows, request.cols};
  if (request.transposed) std::swap(shape[0], shape[1]);
  if (request.count > 0) shape.insert(shape.begin(), request.count);
  const StoredTensor& tensor = find(weight_name(request.name));
  require(tensor.shape == shape, source_.describe(), ": tensor ", tensor.name, " has shape ", shape_text(tensor.shape),
          ", expected ", shape_text(shape), " from the model configuration");
  const int block = weight_format_info(tensor.format).block_values;
  require(request.cols % block == 0, source_.describe(), ": tensor ", tensor.name, " has ", request.cols,
          " columns, which is no multiple of the ", block, " values of a ", weight_format_info(tensor.format).name, " block");
  WeightPart part;
  part.format = tensor.format, part.rows = request.rows, part.cols = request.cols;
  part.data = tensor.data + static_cast<size_t>(request.index * request.rows) * weight_row_bytes(tensor.format, request.cols);
  return request.transposed ? transposed_part(std::move(part)) : part;
}

const StoredTensor& StoredWeights::find_floats(const std::string& name, int64_t count, int64_t size) const {
  const StoredTensor& tensor = find(name);
  int64_t numel = 0;
  const std::vector<int64_t> expected = count == 1 ? std::vector<int64_t>{size} : std::vector<int64_t>{count, size};
  const bool fits = tensor.shape == expected ||
                    (count == 1 && tensor.shape.size() <= 2 && checked_numel(tensor.shape, &numel) && numel == size);
  require(fits, source_.describe(), ": tensor ", name, " has shape ", shape_text(tensor.shape), ", expected ",
          shape_text(expected), " from the model configuration");
  require(!is_quantised(tensor.format), source_.describe(), ": tensor ", name, " is stored in ",
          weight_format_info(tensor.format).name, ", expected plain floats");
  return tensor;
}

std::vector<float> StoredWeights::vector(const std::string& name, int64_t size, bool read) const {
  return stacked_vector(name, 0, 1, size, read);
}

std::vector<float> StoredWeights::stacked_vector(const std::string& name, int64_t index, int64_t count, int64_t size,
                                                 bool read) const {
  const StoredTensor& tensor = find_floats(name, count, size);
  std::vector<float> values(static_cast<size_t>(size));
  const std::byte* data = tensor.data + static_cast<size_t>(index) * weight_row_bytes(tensor.format, size);
  if (read) dequantise_row(tensor.format, data, size, values.data());
  return values;
}

WeightPart StoredWeights::single_row(const std::string& name, int64_t cols) const {
  const StoredTensor& tensor = find(weight_name(name));
  if (tensor.shape.size() != 1) return matrix({.name = name, .rows = 1, .cols = cols});
  require(tensor.shape[0] == cols && !is_quantised(tensor.format), source_.describe(), ": tensor ", tensor.name, " has shape ",
          shape_text(tensor.shape), " of ", weight_format_info(tensor.format).name, ", expected plain floats ",
          shape_text({cols}));
  return {.format = tensor.format, .rows = 1, .cols = cols, .data = tensor.data, .row_order = {}};
}

WeightPart slice_rows(const WeightPart& part, int64_t begin, int64_t rows) {
  std::vector<int32_t> order(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) order[static_cast<size_t>(i)] = static_cast<int32_t>(begin + i);
  return pick_rows(part, std::move(order));
}

WeightPart pick_rows(const WeightPart& part, std::vector<int32_t> order) {
  WeightPart picked = part;
  if (!part.row_order.empty()) {
    for (int32_t& row : order) row = part.row_order[static_cast<size_t>(row)];
  }
  picked.rows = static_cast<int64_t>(order.size());
  picked.row_order = std::move(order);
  return picked;
}

WeightPart quantise_part(const WeightPart& part, WeightFormat format) {
  if (is_quantised(part.format) || part.cols % weight_format_info(format).block_values != 0) return part;
  return convert_part(part, format);
}

WeightPart convert_part(const WeightPart& part, WeightFormat format) {
  WeightPart converted = part;
  converted.format = format;
  converted.data = nullptr;
  converted.one_scale_per_row = false;
  WeightPart stored = part;
  stored.row_order.clear();
  converted.read = [stored = std::move(stored), format](int64_t row, std::byte* out) {
    std::vector<std::byte> scratch;
    std::vector<float> values(static_cast<size_t>(stored.cols));
    dequantise_row(stored.format, stored_row(stored, row, scratch), stored.cols, values.data());
    quantise_row(format, values.data(), stored.cols, out);
  };
  return converted;
}

void read_row(const WeightPart& part, int64_t row, std::byte* out) {
  const int64_t from = part.row_order.empty() ? row : part.row_order[static_cast<size_t>(row)];
  if (part.read) return part.read(from, out);
  const size_t bytes = weight_row_bytes(part.format, part.cols);
  std::memcpy(out, part.data + static_cast<size_t>(from) * bytes, bytes);
}

}  // namespace pagoda

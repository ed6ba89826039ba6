// Rows of e4m3 bytes with their scales.
#include "model/fp8.h"

#include <cstring>
#include <tuple>
#include <utility>

#include "core/check.h"
#include "core/weight_format.h"
#include "model/quantisation_fields.h"

namespace pagoda {

std::vector<TensorShape> scalar_shapes() { return {{}, {1}, {1, 1}}; }

std::vector<TensorShape> row_scale_shapes(int64_t rows) { return {{rows}, {rows, 1}}; }

WeightPart f8_part(const WeightSource& source, const std::string& name, const TensorBytes& weights, const ScaleTable& scales,
                   int64_t cols_per_scale) {
  const int64_t rows = weights.shape[0], cols = weights.shape[1];
  const bool fits = cols % kBlockValues == 0 && (cols_per_scale % kBlockValues == 0 || cols_per_scale >= cols);
  require(fits, source.describe(), ": tensor ", name,
          ": 8-bit floats are supported with columns and blocks of multiples of 32, got ", cols, " columns and ",
          cols_per_scale, " to a scale");
  WeightPart part;
  part.format = WeightFormat::f8_e4m3;
  part.rows = rows;
  part.cols = cols;
  part.one_scale_per_row = cols_per_scale >= cols;
  part.read = [data = weights.data, cols, scales, cols_per_scale](int64_t row, std::byte* out) {
    const std::byte* values = data + row * cols;
    for (int64_t k = 0; k < cols; k += kBlockValues) {
      const float scale = scales.at(row, k / cols_per_scale);
      std::memcpy(out, &scale, sizeof scale);
      std::memcpy(out + sizeof scale, values + k, kBlockValues);
      out += sizeof scale + kBlockValues;
    }
  };
  return part;
}

Fp8::Fp8(std::string method, const Json& config) : method_(std::move(method)) {
  const std::string format = config.get_string("fmt", "e4m3");
  require(format == "e4m3", kQuantisationField, "fmt must be 'e4m3' with ", method_, ", got '", format, "'");
  if (method_ != "fp8") return;
  const Json* blocks = config.find("weight_block_size");
  if (!blocks) {
    block_rows_ = block_cols_ = 128;
  } else if (!blocks->is_null()) {
    std::tie(block_rows_, block_cols_) = read_block(blocks, str(kQuantisationField, "weight_block_size"));
  }
}

std::optional<WeightPart> Fp8::find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const {
  const std::optional<TensorBytes> weight = source.find_bytes(name + ".weight");
  if (!weight || is_plain_type(weight->type)) return std::nullopt;
  const TensorBytes weights = require_tensor(source, name + ".weight", {"F8_E4M3"}, {rows, cols});
  const std::string block_name = name + ".weight_scale_inv";
  if (block_rows_ > 0 && source.find_bytes(block_name)) {
    const TensorShape shape{ceil_div(rows, block_rows_), ceil_div(cols, block_cols_)};
    const TensorBytes scales = require_scales(source, block_name);
    require_shape(source, block_name, scales, {shape});
    const ScaleTable table(scales, {.rows_per_scale = block_rows_, .row_stride = shape[1], .group_stride = 1});
    return f8_part(source, name + ".weight", weights, table, block_cols_);
  }
  const std::string scale_name = source.find_bytes(block_name) ? block_name : name + ".weight_scale";
  const TensorBytes scales = require_scales(source, scale_name);
  std::vector<TensorShape> shapes = scalar_shapes();
  const size_t num_scalar = shapes.size();
  for (TensorShape& shape : row_scale_shapes(rows)) shapes.push_back(std::move(shape));
  const bool is_scalar = require_shape(source, scale_name, scales, shapes) < num_scalar;
  return f8_part(source, name + ".weight", weights, ScaleTable(scales, {.row_stride = is_scalar ? 0 : 1}), cols);
}

std::string Fp8::describe() const {
  const std::string blocks = block_rows_ > 0 ? str(", blocks of ", block_rows_, " x ", block_cols_) : "";
  return method_ + ", e4m3" + blocks + "; inputs keep their precision";
}

}  // namespace pagoda

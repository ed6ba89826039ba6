// The formats pack-quantized, int-quantized, float-quantized and naive-quantized.
#include "model/compressed_tensors.h"

#include <functional>
#include <tuple>
#include <utility>

#include "core/check.h"
#include "model/fp8.h"
#include "model/integer_matrix.h"
#include "model/quantisation_fields.h"

namespace pagoda {
namespace {

/// A sparsity_config of anything but dense weights, or rotations of the inputs, change what the stored numbers mean.
void refuse_transforms(const Json& config) {
  const Json* sparsity = config.find("sparsity_config");
  if (sparsity && sparsity->is_object()) {
    const std::string format = sparsity->get_string("format", "dense");
    require(format == "dense", kQuantisationField, "sparsity_config: format must be 'dense', got '", format, "'");
  }
  const Json* transform = config.find("transform_config");
  const bool transformed = transform && transform->is_object() && !transform->members().empty();
  require(!transformed, kQuantisationField, "transform_config: checkpoints with transforms of their inputs are not supported");
}

/// Writes q[row][0..cols) of words filled from their lowest bits. Rows begin at words.
std::function<void(int64_t, uint8_t*)> packed_reader(const TensorBytes& weights, int64_t bits, int64_t cols) {
  return [data = weights.data, row_bytes = weights.shape[1] * 4, bits, cols](int64_t row, uint8_t* out) {
    const std::byte* at = data + row * row_bytes;
    for (int64_t k = 0; k < cols; ++k) {
      const int byte = std::to_integer<int>(at[k * bits / 8]);
      out[k] = static_cast<uint8_t>(bits == 8 ? byte : byte >> (4 * (k % 2)) & 15);
    }
  };
}

std::function<void(int64_t, uint8_t*)> int8_reader(const TensorBytes& weights, int64_t cols) {
  return [data = weights.data, cols](int64_t row, uint8_t* out) {
    for (int64_t k = 0; k < cols; ++k) out[k] = static_cast<uint8_t>(data[row * cols + k]) ^ 0x80;
  };
}

/// weight_shape repeats what the model configuration says; where it does not, the file belongs to another model.
void check_weight_shape(const WeightSource& source, const std::string& name, const TensorShape& shape) {
  if (!source.find_bytes(name)) return;
  const TensorBytes tensor = require_tensor(source, name, {"I64"}, {2});
  const auto stored = [&](int64_t i) {
    return static_cast<int64_t>(uint64_t{load_word(tensor, 2 * i + 1)} << 32 | load_word(tensor, 2 * i));
  };
  require(stored(0) == shape[0] && stored(1) == shape[1], source.describe(), ": tensor ", name, " holds [", stored(0), ", ",
          stored(1), "], expected [", shape[0], ", ", shape[1], "] from the model configuration");
}

}  // namespace

CompressedTensors::CompressedTensors(const Json& config) {
  refuse_transforms(config);
  const Json* nested = config.find("quantization_config");
  const Json& fields = nested && nested->is_object() ? *nested : config;
  refuse_transforms(fields);
  const std::string format = fields.get_string("format", "dense");
  const Json* groups = fields.find("config_groups");
  require(groups && groups->is_object(), kQuantisationField, "config_groups must be an object of groups, got ",
          groups ? groups->describe() : "nothing");
  for (const Json::Member& member : groups->members()) {
    const std::string field = str(kQuantisationField, "config_groups: ", member.key, ": ");
    require(member.value.is_object(), field, "must be an object, got ", member.value.describe());
    const Json* weights = member.value.find("weights");
    if (!weights || weights->is_null()) continue;
    require(weights->is_object(), field, "weights must be an object, got ", weights->describe());
    schemes_.push_back(read_scheme(field, *weights, member.value.get_string("format", format)));
    const Json* inputs = member.value.find("input_activations");
    quantised_inputs_ |= inputs && !inputs->is_null();
  }
  require(!schemes_.empty(), kQuantisationField, "config_groups: no group has weights");
}

CompressedTensors::Scheme CompressedTensors::read_scheme(const std::string& field, const Json& json,
                                                         const std::string& format) {
  Scheme scheme;
  scheme.packed = format == "pack-quantized";
  require(scheme.packed || format == "int-quantized" || format == "float-quantized" || format == "naive-quantized", field,
          "format '", format,
          "' is not supported; supported are pack-quantized, int-quantized, float-quantized and naive-quantized");
  const std::string type = to_lower(json.get_string("type", "int"));
  scheme.bits = json.get_int("num_bits", 8);
  scheme.symmetric = json.get_bool("symmetric", true);
  scheme.is_float = type == "float";
  if (scheme.is_float) {
    require(scheme.bits == 8 && scheme.symmetric && !scheme.packed, field,
            "floats are supported with 8 bits, symmetric and not packed, got ", scheme.bits, " bits");
  } else {
    require(type == "int" && (scheme.bits == 4 || scheme.bits == 8), field,
            "weights are supported as int of 4 or 8 bits or float of 8 bits, got ", type, " of ", scheme.bits, " bits");
  }
  read_tiles(field, json, scheme);
  return scheme;
}

/// What one scale stands for.
void CompressedTensors::read_tiles(const std::string& field, const Json& weights, Scheme& scheme) {
  const int64_t group_size = weights.get_int("group_size", 0);
  require(group_size >= -1, field, "group_size must be -1 or at least 1, got ", group_size);
  const char* inferred = group_size == 0 ? "tensor" : group_size == -1 ? "channel" : "group";
  const std::string strategy = to_lower(weights.get_string("strategy", inferred));
  if (strategy == "tensor") {
    scheme.strategy = Strategy::tensor;
  } else if (strategy == "channel") {
    scheme.strategy = Strategy::channel;
  } else if (strategy == "group") {
    scheme.strategy = Strategy::group;
    require(group_size >= 1, field, "group_size must be at least 1 with strategy 'group', got ", group_size);
    scheme.block_cols = group_size;
  } else {
    require(strategy == "block", field, "strategy '", strategy,
            "' is not supported; supported are tensor, channel, group and block");
    scheme.strategy = Strategy::block;
    std::tie(scheme.block_rows, scheme.block_cols) = read_block(weights.find("block_structure"), field + "block_structure");
  }
}

std::vector<TensorShape> CompressedTensors::scale_shapes(const Scheme& scheme, int64_t rows, int64_t cols) {
  switch (scheme.strategy) {
    case Strategy::tensor:
      return scalar_shapes();
    case Strategy::channel:
      return row_scale_shapes(rows);
    case Strategy::group:
    case Strategy::block:
      break;
  }
  return {{ceil_div(rows, scheme.block_rows), ceil_div(cols, scheme.block_cols)}};
}

/// The scheme whose shapes the tensors of a matrix have.
const CompressedTensors::Scheme& CompressedTensors::scheme_of(const WeightSource& source, const std::string& name,
                                                              const TensorBytes& weights, const TensorShape& shape) const {
  const bool packed = weights.type == "I32", is_float = weights.type == "F8_E4M3";
  const std::string weight_name = name + (packed ? ".weight_packed" : ".weight");
  std::vector<const Scheme*> candidates;
  std::vector<TensorShape> shapes;
  for (const Scheme& scheme : schemes_) {
    if (scheme.packed != packed || scheme.is_float != is_float) continue;
    candidates.push_back(&scheme);
    shapes.push_back({shape[0], packed ? ceil_div(shape[1], 32 / scheme.bits) : shape[1]});
  }
  require(!candidates.empty(), source.describe(), ": tensor ", weight_name, " has type ", weights.type,
          ", expected what config_groups say: ", describe());
  const TensorShape stored = shapes[require_shape(source, weight_name, weights, shapes)];
  std::vector<const Scheme*> fitting;
  std::vector<TensorShape> scales;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (shapes[i] != stored) continue;
    for (TensorShape& scale : scale_shapes(*candidates[i], shape[0], shape[1])) {
      fitting.push_back(candidates[i]);
      scales.push_back(std::move(scale));
    }
  }
  const TensorBytes tensor = require_scales(source, name + ".weight_scale");
  return *fitting[require_shape(source, name + ".weight_scale", tensor, scales)];
}

CompressedTensors::Scales CompressedTensors::scales_of(const Scheme& scheme, const TensorBytes& tensor, int64_t cols) {
  if (scheme.strategy == Strategy::tensor) return {tensor, {}, cols};
  if (scheme.strategy == Strategy::channel) return {tensor, {.row_stride = 1}, cols};
  const ScaleTable::Layout layout{.rows_per_scale = scheme.block_rows, .row_stride = tensor.shape[1], .group_stride = 1};
  return {tensor, layout, scheme.block_cols};
}

WeightPart CompressedTensors::integers(const WeightSource& source, const std::string& name, const TensorBytes& weights,
                                       const Scheme& scheme, const Scales& scales, const TensorShape& shape) {
  const int64_t rows = shape[0], cols = shape[1], bits = scheme.packed ? scheme.bits : 8;
  IntegerMatrix matrix{.bits = static_cast<int>(bits),
                       .rows = rows,
                       .cols = cols,
                       .unpack = scheme.packed ? packed_reader(weights, bits, cols) : int8_reader(weights, cols),
                       .scales = ScaleTable(scales.tensor, scales.layout),
                       .groups = ColumnGroups::read(source, name + ".weight_g_idx", cols, scales.cols_per_scale),
                       .zero = nullptr};
  const std::string zero_name = name + ".weight_zero_point";
  if (scheme.symmetric && !source.find_bytes(zero_name)) return integer_part(std::move(matrix));
  if (scheme.packed) {  // words go down the columns
    const int64_t per_word = 32 / bits, stride = matrix.groups.count();
    const TensorBytes zeros = require_tensor(source, zero_name, {"I32"}, {ceil_div(rows, per_word), stride});
    matrix.zero = [zeros, bits, per_word, stride](int64_t row, int64_t group) {
      const uint32_t word = load_word(zeros, row / per_word * stride + group);
      return static_cast<int>(word >> (bits * (row % per_word)) & ((1u << bits) - 1));
    };
  } else {
    const TensorBytes zeros = require_tensor(source, zero_name, {"I8"}, scales.tensor.shape);
    matrix.zero = [data = zeros.data, at = scales.layout](int64_t row, int64_t group) {
      const int64_t index = row / at.rows_per_scale * at.row_stride + group * at.group_stride;
      return std::to_integer<int>(data[index] ^ std::byte{0x80});
    };
  }
  return integer_part(std::move(matrix));
}

std::optional<WeightPart> CompressedTensors::find(const WeightSource& source, const std::string& name, int64_t rows,
                                                  int64_t cols) const {
  const bool packed = source.find_bytes(name + ".weight_packed").has_value();
  const std::optional<TensorBytes> plain = source.find_bytes(name + ".weight");
  if (!packed && plain && is_plain_type(plain->type)) return std::nullopt;
  if (!packed && !plain) {
    require(!source.find_bytes(name + ".weight_scale"), source.describe(), ": tensor ", name, ".weight_packed is missing, but ",
            name, ".weight_scale is there");
    return std::nullopt;
  }
  const TensorBytes weights = packed ? require_tensor(source, name + ".weight_packed", {"I32"})
                                     : require_tensor(source, name + ".weight", {"I8", "F8_E4M3"});
  const TensorShape shape{rows, cols};
  if (packed) check_weight_shape(source, name + ".weight_shape", shape);
  const Scheme& scheme = scheme_of(source, name, weights, shape);
  const Scales scales = scales_of(scheme, require_scales(source, name + ".weight_scale"), cols);
  if (!scheme.is_float) return integers(source, name, weights, scheme, scales, shape);
  return f8_part(source, name + ".weight", weights, ScaleTable(scales.tensor, scales.layout), scales.cols_per_scale);
}

std::string CompressedTensors::Scheme::describe() const {
  const std::string kind = is_float ? "e4m3" : str(bits, " bits", symmetric ? "" : " with zero points");
  switch (strategy) {
    case Strategy::tensor:
      return kind + ", one scale per matrix";
    case Strategy::channel:
      return kind + ", one scale per row";
    case Strategy::group:
      return kind + ", " + group_text(block_cols);
    case Strategy::block:
      break;
  }
  return str(kind, ", blocks of ", block_rows, " x ", block_cols);
}

std::string CompressedTensors::describe() const {
  std::string text;
  for (const Scheme& scheme : schemes_) {
    const std::string part = scheme.describe();
    if (text.find(part) == std::string::npos) text += (text.empty() ? "" : " or ") + part;
  }
  return "compressed-tensors, " + text + (quantised_inputs_ ? "; inputs keep their precision" : "");
}

}  // namespace pagoda

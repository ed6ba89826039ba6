// The packing of AutoGPTQ's QuantLinear.
#include "model/gptq.h"

#include <functional>
#include <utility>

#include "core/check.h"
#include "model/integer_matrix.h"
#include "model/quantisation_fields.h"

namespace pagoda {
namespace {

int64_t group_columns(int64_t group_size, int64_t cols) { return group_size == -1 ? cols : group_size; }

/// q[k] of a row: word k / per_word of column `row`.
std::function<void(int64_t, uint8_t*)> unpacker(const TensorBytes& weights, int bits, int64_t rows, int64_t cols) {
  return [weights, bits, rows, cols](int64_t row, uint8_t* out) {
    const int64_t per_word = 32 / bits;
    const uint32_t mask = (1u << bits) - 1;
    for (int64_t k = 0, index = row; k < cols; index += rows) {
      const uint32_t word = load_word(weights, index);
      for (int64_t i = 0; i < per_word; ++i) out[k++] = static_cast<uint8_t>(word >> (bits * i) & mask);
    }
  };
}

}  // namespace

Gptq::Scheme Gptq::read_scheme(const Json& config, const Scheme& fallback) {
  const Scheme scheme{config.get_int("bits", fallback.bits), read_group_size(config, fallback.group_size)};
  require(scheme.bits == 4 || scheme.bits == 8, kQuantisationField, "bits must be 4 or 8 with gptq, got ", scheme.bits);
  return scheme;
}

Gptq::Gptq(const Json& config) : activation_order_(config.get_bool("desc_act", false)) {
  std::string format = config.get_string("checkpoint_format", "");
  if (format.empty()) format = config.get_string("format", "gptq");
  if (config.get_bool("is_marlin_format", false)) format = "marlin";
  format = to_lower(format);
  require(format == "gptq" || format == "gptq_v2", kQuantisationField, "the gptq format must be 'gptq' or 'gptq_v2', got '",
          format, "'");
  zeros_minus_one_ = format == "gptq";
  require(config.find("bits") != nullptr, kQuantisationField, "bits is missing; gptq is supported with 4 or 8");
  schemes_.push_back(read_scheme(config, {4, 128}));
  // Matrices whose names match a pattern may differ. Which they are shows in their shapes. "-:" patterns name plain matrices.
  const Json* overrides = config.find("dynamic");
  if (!overrides || !overrides->is_object()) return;
  for (const Json::Member& member : overrides->members()) {
    if (!member.key.starts_with("-:") && member.value.is_object())
      schemes_.push_back(read_scheme(member.value, schemes_.front()));
  }
}

/// The scheme whose shapes the tensors of a matrix have.
const Gptq::Scheme& Gptq::scheme_of(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const {
  const auto weight_shape = [&](const Scheme& scheme) { return TensorShape{cols / (32 / scheme.bits), rows}; };
  std::vector<TensorShape> shapes;
  for (const Scheme& scheme : schemes_) shapes.push_back(weight_shape(scheme));
  const TensorBytes weights = require_tensor(source, name + ".qweight", {"I32"});
  require_shape(source, name + ".qweight", weights, shapes);
  std::vector<const Scheme*> candidates;
  shapes.clear();
  for (const Scheme& scheme : schemes_) {
    if (weight_shape(scheme) != weights.shape) continue;
    candidates.push_back(&scheme);
    shapes.push_back({ceil_div(cols, group_columns(scheme.group_size, cols)), rows});
  }
  const TensorBytes scales = require_scales(source, name + ".scales");
  return *candidates[require_shape(source, name + ".scales", scales, shapes)];
}

std::optional<WeightPart> Gptq::find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const {
  if (!source.find_bytes(name + ".qweight")) {
    require(!source.find_bytes(name + ".scales"), source.describe(), ": tensor ", name, ".qweight is missing, but ", name,
            ".scales is there");
    return std::nullopt;
  }
  const Scheme& scheme = scheme_of(source, name, rows, cols);
  const int bits = static_cast<int>(scheme.bits);
  const int64_t per_word = 32 / bits;
  require(rows % per_word == 0 && cols % per_word == 0, source.describe(), ": tensor ", name, ".qweight: gptq with ", bits,
          " bits keeps [", rows, ", ", cols, "] only with both a multiple of ", per_word);
  ColumnGroups groups = ColumnGroups::read(source, name + ".g_idx", cols, group_columns(scheme.group_size, cols));
  require(!activation_order_ || source.find_bytes(name + ".g_idx"), source.describe(), ": tensor ", name,
          ".g_idx is missing, which desc_act needs");
  const int64_t zero_words = rows / per_word;
  const TensorBytes zeros = require_tensor(source, name + ".qzeros", {"I32"}, {groups.count(), zero_words});
  const TensorBytes weights = require_tensor(source, name + ".qweight", {"I32"});
  const TensorBytes scales = require_scales(source, name + ".scales");
  IntegerMatrix matrix{.bits = bits,
                       .rows = rows,
                       .cols = cols,
                       .unpack = unpacker(weights, bits, rows, cols),
                       .scales = ScaleTable(scales, {.row_stride = 1, .group_stride = rows}),
                       .groups = std::move(groups),
                       .zero = nullptr};
  // The ones are added to whole words, as they were taken off: a zero of 0 borrowed from the number above it.
  const uint32_t ones = !zeros_minus_one_ ? 0 : bits == 4 ? 0x11111111u : 0x01010101u;
  matrix.zero = [zeros, zero_words, bits, per_word, ones](int64_t row, int64_t group) {
    const uint32_t word = load_word(zeros, group * zero_words + row / per_word) + ones;
    return static_cast<int>(word >> (bits * (row % per_word)) & ((1u << bits) - 1));
  };
  return integer_part(std::move(matrix));
}

std::string Gptq::describe() const {
  std::string text;
  for (const Scheme& scheme : schemes_) {
    const std::string part = str(scheme.bits, " bits, ", group_text(scheme.group_size));
    if (text.find(part) == std::string::npos) text += (text.empty() ? "" : " or ") + part;
  }
  return "gptq, " + text + (activation_order_ ? ", in activation order: multiplied out to f16" : "");
}

}  // namespace pagoda

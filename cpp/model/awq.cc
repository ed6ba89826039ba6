// The packing of AutoAWQ's WQLinear_GEMM.
#include "model/awq.h"

#include <cstddef>
#include <utility>

#include "core/check.h"
#include "model/integer_matrix.h"
#include "model/quantisation_fields.h"

namespace pagoda {
namespace {

constexpr int64_t kPerWord = 8;
/// Number i of eight stands in this nibble of their word.
constexpr int kNibble[kPerWord] = {0, 4, 1, 5, 2, 6, 3, 7};

int shift_of(int64_t row) { return 4 * kNibble[row % kPerWord]; }

/// Some families scale the input of a matrix by a vector beside it; without it every output would be wrong.
void refuse_activation_scales(const WeightSource& source, const std::string& name) {
  const std::string scales = name.substr(0, name.rfind('.') + 1) + "act.scales";
  require(!source.find_bytes(scales), source.describe(), ": tensor ", scales,
          " scales the input of a matrix, which awq checkpoints are supported without");
}

}  // namespace

Awq::Awq(const Json& config) : group_size_(read_group_size(config, 128)), zero_point_(config.get_bool("zero_point", true)) {
  const int64_t bits = config.get_int("bits", 4);
  require(bits == 4, kQuantisationField, "bits must be 4 with awq, got ", bits);
  const std::string backend = config.get_string("backend", "");
  require(backend != "llm-awq", kQuantisationField,
          "backend 'llm-awq' packs weights in an order of its own; supported is AutoAWQ's format gemm");
  std::string format = config.get_string("version", "");
  if (format.empty()) format = config.get_string("checkpoint_format", "");
  if (format.empty()) format = config.get_string("format", "gemm");
  require(to_lower(format) == "gemm", kQuantisationField, "the awq format must be 'gemm', got '", format, "'");
}

std::optional<WeightPart> Awq::find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const {
  if (!source.find_bytes(name + ".qweight")) {
    require(!source.find_bytes(name + ".scales"), source.describe(), ": tensor ", name, ".qweight is missing, but ", name,
            ".scales is there");
    return std::nullopt;
  }
  refuse_activation_scales(source, name);
  const int64_t group = group_size_ == -1 ? cols : group_size_;
  require(rows % kPerWord == 0 && cols % group == 0, source.describe(), ": tensor ", name, ".qweight: awq keeps [", rows, ", ",
          cols, "] only with rows a multiple of 8 and columns a multiple of the group size ", group);
  const int64_t words = rows / kPerWord;
  const TensorBytes weights = require_tensor(source, name + ".qweight", {"I32"}, {cols, words});
  const TensorBytes scales = require_scales(source, name + ".scales");
  require_shape(source, name + ".scales", scales, {{cols / group, rows}});
  IntegerMatrix matrix{.bits = 4,
                       .rows = rows,
                       .cols = cols,
                       .unpack = nullptr,
                       .scales = ScaleTable(scales, {.row_stride = 1, .group_stride = rows}),
                       .groups = ColumnGroups(cols, group),
                       .zero = nullptr};
  matrix.unpack = [weights, words, cols](int64_t row, uint8_t* out) {
    const std::byte* at = weights.data + row / kPerWord * 4 + shift_of(row) / 8;
    const int shift = shift_of(row) % 8;
    for (int64_t k = 0; k < cols; ++k, at += words * 4) out[k] = static_cast<uint8_t>(std::to_integer<int>(*at) >> shift & 15);
  };
  if (zero_point_ || source.find_bytes(name + ".qzeros")) {
    const TensorBytes zeros = require_tensor(source, name + ".qzeros", {"I32"}, {cols / group, words});
    matrix.zero = [zeros, words](int64_t row, int64_t g) {
      return static_cast<int>(load_word(zeros, g * words + row / kPerWord) >> shift_of(row) & 15u);
    };
  }
  return integer_part(std::move(matrix));
}

std::string Awq::describe() const { return "awq, 4 bits, " + group_text(group_size_); }

}  // namespace pagoda

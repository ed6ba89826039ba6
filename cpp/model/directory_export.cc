// Tensors keep their names and order of rows; only linear matrices may change into others.
#include "model/directory_export.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "core/check.h"
#include "core/dtype.h"
#include "io/code_values.h"
#include "io/dequantise.h"
#include "io/quantise.h"
#include "model/quantised_tensors.h"
#include "model/stored_weights.h"
#include "model/tensor_places.h"

namespace pagoda {
namespace {

constexpr int64_t kGroup = 32;
constexpr std::array kFormats{WeightFormat::f32,  WeightFormat::f16,  WeightFormat::bf16,
                              WeightFormat::int8, WeightFormat::int4, WeightFormat::f8_e4m3};

const char* type_name(WeightFormat format) {
  return format == WeightFormat::f32 ? "F32" : format == WeightFormat::f16 ? "F16" : "BF16";
}

WeightFormat plain_format(std::string_view type) {
  return type == "F32" ? WeightFormat::f32 : type == "F16" ? WeightFormat::f16 : WeightFormat::bf16;
}

/// Row by row along the last dimension.
struct RowShape {
  int64_t rows = 1;
  int64_t cols = 1;
};

RowShape rows_of(const std::vector<int64_t>& shape) {
  RowShape result;
  for (size_t i = 0; i < shape.size(); ++i) (i + 1 < shape.size() ? result.rows : result.cols) *= shape[i];
  return result;
}

/// A part's tensor in its own order of rows.
OutputTensor plain_tensor(const std::string& name, const WeightPart& part) {
  OutputTensor out{name, type_name(part.format), {part.rows, part.cols}, part.rows, weight_row_bytes(part.format, part.cols),
                   {}};
  out.read = [part](int64_t row, std::byte* to) { read_row(part, row, to); };
  return out;
}

OutputTensor copied_tensor(const std::string& name, const TensorBytes& tensor) {
  const RowShape shape = rows_of(tensor.shape);
  OutputTensor out{name, std::string(tensor.type), tensor.shape, 1, tensor.bytes, {}};
  if (shape.rows > 0 && tensor.bytes % static_cast<size_t>(shape.rows) == 0) {
    out.num_rows = shape.rows;
    out.row_bytes = tensor.bytes / static_cast<size_t>(shape.rows);
  }
  out.read = [data = tensor.data, bytes = out.row_bytes](int64_t row, std::byte* to) {
    std::memcpy(to, data + static_cast<size_t>(row) * bytes, bytes);
  };
  return out;
}

OutputTensor cast_tensor(const std::string& name, const TensorBytes& tensor, WeightFormat format) {
  const RowShape shape = rows_of(tensor.shape);
  const WeightPart part{.format = plain_format(tensor.type),
                        .rows = shape.rows,
                        .cols = shape.cols,
                        .data = tensor.data,
                        .row_order = {},
                        .read = nullptr};
  OutputTensor out = plain_tensor(name, convert_part(part, format));
  out.shape = tensor.shape;
  return out;
}

std::vector<float> row_values(const WeightPart& part, int64_t row) {
  std::vector<std::byte> stored(weight_row_bytes(part.format, part.cols));
  read_row(part, row, stored.data());
  std::vector<float> values(static_cast<size_t>(part.cols));
  dequantise_row(part.format, stored.data(), part.cols, values.data());
  return values;
}

/// A block of int4 or int8 as quantise_row writes it, taken apart.
struct Block {
  float scale;
  int zero;  ///< int4
  const std::byte* codes;
};

Block block_at(WeightFormat format, const std::vector<std::byte>& row, int64_t group) {
  const std::byte* at = row.data() + static_cast<size_t>(group) * weight_format_info(format).block_bytes;
  Block block{0, 0, at + (format == WeightFormat::int4 ? 8 : 4)};
  std::memcpy(&block.scale, at, sizeof block.scale);
  if (format == WeightFormat::int4) {
    float zero;
    std::memcpy(&zero, at + 4, sizeof zero);
    block.zero = static_cast<int>(zero);
  }
  return block;
}

std::vector<std::byte> stored_row(const WeightPart& part, int64_t row) {
  std::vector<std::byte> bytes(weight_row_bytes(part.format, part.cols));
  read_row(part, row, bytes.data());
  return bytes;
}

/// The tensors of a matrix in format pack-quantized. `part` is int4 or int8.
void add_packed(const std::string& name, const WeightPart& part, std::vector<OutputTensor>& out) {
  const bool is_int4 = part.format == WeightFormat::int4;
  const int64_t rows = part.rows, cols = part.cols, groups = cols / kGroup, words = cols * (is_int4 ? 4 : 8) / 32;
  OutputTensor packed{name + ".weight_packed", "I32", {rows, words}, rows, static_cast<size_t>(words) * 4, {}};
  packed.read = [part, groups, is_int4](int64_t row, std::byte* to) {
    const std::vector<std::byte> stored = stored_row(part, row);
    for (int64_t group = 0; group < groups; ++group) {
      const std::byte* codes = block_at(part.format, stored, group).codes;
      if (is_int4) {  // low halves are codes 0 to 15, high halves 16 to 31; words want neighbours side by side
        for (int i = 0; i < 8; ++i) *to++ = (codes[2 * i] & std::byte{15}) | codes[2 * i + 1] << 4;
        for (int i = 0; i < 8; ++i) *to++ = codes[2 * i] >> 4 | (codes[2 * i + 1] & std::byte{0xf0});
      } else {
        for (int i = 0; i < kGroup; ++i) *to++ = codes[i] ^ std::byte{0x80};
      }
    }
  };
  out.push_back(std::move(packed));
  OutputTensor scales{name + ".weight_scale", "F32", {rows, groups}, rows, static_cast<size_t>(groups) * 4, {}};
  scales.read = [part, groups](int64_t row, std::byte* to) {
    const std::vector<std::byte> stored = stored_row(part, row);
    for (int64_t group = 0; group < groups; ++group, to += 4) {
      const float scale = block_at(part.format, stored, group).scale;
      std::memcpy(to, &scale, sizeof scale);
    }
  };
  out.push_back(std::move(scales));
  if (is_int4) {  // words go down the columns
    OutputTensor zeros{name + ".weight_zero_point",     "I32", {ceil_div(rows, 8), groups}, ceil_div(rows, 8),
                       static_cast<size_t>(groups) * 4, {}};
    zeros.read = [part, groups](int64_t word_row, std::byte* to) {
      std::vector<uint32_t> words_of_row(static_cast<size_t>(groups));
      for (int64_t row = 8 * word_row; row < std::min(part.rows, 8 * word_row + 8); ++row) {
        const std::vector<std::byte> stored = stored_row(part, row);
        for (int64_t group = 0; group < groups; ++group) {
          const auto zero = static_cast<uint32_t>(block_at(part.format, stored, group).zero);
          words_of_row[static_cast<size_t>(group)] |= zero << (4 * (row % 8));
        }
      }
      std::memcpy(to, words_of_row.data(), words_of_row.size() * 4);
    };
    out.push_back(std::move(zeros));
  }
  OutputTensor shape{name + ".weight_shape", "I64", {2}, 1, 16, {}};
  shape.read = [sizes = std::array<int64_t, 2>{rows, cols}](int64_t, std::byte* to) { std::memcpy(to, sizes.data(), 16); };
  out.push_back(std::move(shape));
}

float row_scale(const std::vector<float>& values) {
  float most = 0;
  for (const float value : values) most = std::isnan(value) ? value : std::max(most, std::abs(value));
  return most / kMaxE4m3;
}

/// The tensors of a matrix in format float-quantized with a scale for each row.
void add_f8(const std::string& name, const WeightPart& part, std::vector<OutputTensor>& out) {
  OutputTensor codes{name + ".weight", "F8_E4M3", {part.rows, part.cols}, part.rows, static_cast<size_t>(part.cols), {}};
  codes.read = [part](int64_t row, std::byte* to) {
    const std::vector<float> values = row_values(part, row);
    const float scale = row_scale(values);
    for (const float value : values) *to++ = static_cast<std::byte>(scale > 0 ? float_to_e4m3(value / scale) : 0);
  };
  out.push_back(std::move(codes));
  OutputTensor scales{name + ".weight_scale", "F32", {part.rows, 1}, part.rows, 4, {}};
  scales.read = [part](int64_t row, std::byte* to) {
    const float scale = row_scale(row_values(part, row));
    std::memcpy(to, &scale, sizeof scale);
  };
  out.push_back(std::move(scales));
}

/// The linear matrices of a checkpoint by their tensors' names without suffix, each tensor once.
std::map<std::string, MatrixPlace> linear_tensors(const ModelConfig& config) {
  const TensorPlaces places(config, config.layout);
  std::map<std::string, MatrixPlace> tensors;
  for (const MatrixId& id : matrices_of(config)) {
    if (!is_linear(id.role)) continue;
    MatrixPlace place = places.matrix(id);
    std::string name = place.tensor;
    tensors.emplace(std::move(name), std::move(place));
  }
  return tensors;
}

/// Linear modules that are never quantised.
std::vector<std::string> other_modules(const ModelConfig& config) {
  const TensorPlaces places(config, config.layout);
  std::vector<std::string> names;
  if (config.tied_embeddings) names.push_back(config.layout.names->lm_head);
  for (const MatrixId& id : matrices_of(config)) {
    const bool embeds = id.role == MatrixRole::embedding || id.role == MatrixRole::positions;
    if (!is_linear(id.role) && !embeds) names.push_back(places.matrix(id).tensor);
  }
  return names;
}

class DirectoryTensors {
 public:
  DirectoryTensors(const WeightSource& source, const Checkpoint* checkpoint, std::optional<WeightFormat> format)
      : source_(source), checkpoint_(checkpoint), format_(format), names_(source.names()) {}

  std::vector<OutputTensor> make() {
    if (format_ && checkpoint_) change_linear_matrices();
    for (const TensorListing& listing : source_.list()) {
      if (gone_.contains(listing.name)) continue;
      const TensorBytes tensor = *source_.find_bytes(listing.name);
      const bool cast = format_ && !is_quantised(*format_) && is_plain_type(tensor.type);
      tensors_.push_back(cast ? cast_tensor(listing.name, tensor, *format_) : copied_tensor(listing.name, tensor));
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const OutputTensor& a, const OutputTensor& b) { return a.name < b.name; });
    return std::move(tensors_);
  }

  std::vector<std::string> plain_modules() const { return plain_modules_; }

 private:
  void change_linear_matrices() {
    const bool quantises = is_quantised(*format_);
    require(!quantises || !checkpoint_->quantisation, source_.describe(), ": weight format ", weight_format_info(*format_).name,
            " is for weights of plain floats, but these are quantised already (",
            checkpoint_->quantisation ? checkpoint_->quantisation->describe() : "", "); choose auto, f32, f16 or bf16");
    if (!quantises && !checkpoint_->quantisation) return;
    if (quantises) plain_modules_ = other_modules(checkpoint_->config);
    const StoredWeights stored(source_, checkpoint_->quantisation.get());
    for (const auto& [name, place] : linear_tensors(checkpoint_->config)) {
      if (quantises) {
        quantise(name, place, stored);
      } else {
        decode(name, place, stored);
      }
    }
  }

  void quantise(const std::string& name, const MatrixPlace& place, const StoredWeights& stored) {
    require(!place.transposed && place.count == 0, source_.describe(), ": tensor ", name,
            place.count ? " stacks all experts of a layer" : " is stored transposed",
            ", which compressed-tensors has no form for;", " choose f32, f16 or bf16, or write OUT.gguf");
    const WeightPart part = stored.matrix({.name = name, .rows = place.tensor_rows, .cols = place.cols});
    if (place.cols % kGroup != 0) {
      plain_modules_.push_back(name);
      return;
    }
    gone_.insert(stored.weight_name(name));
    if (*format_ == WeightFormat::f8_e4m3) {
      add_f8(name, part, tensors_);
    } else {
      add_packed(name, convert_part(part, *format_), tensors_);
    }
  }

  /// A matrix that is kept quantised takes the place of everything under its name but its bias.
  void decode(const std::string& name, const MatrixPlace& place, const StoredWeights& stored) {
    const HfQuantisation& quantisation = *checkpoint_->quantisation;
    if (place.count > 0) {
      require(!quantisation.find_in_stack(source_, name, {0, place.count}, place.tensor_rows, place.cols), source_.describe(),
              ": tensor ", name, " stacks all experts of a layer, quantised (", quantisation.describe(),
              "), which a directory is not written from; choose auto, or write OUT.gguf");
      return;
    }
    if (!quantisation.find(source_, name, place.tensor_rows, place.cols)) return;
    const WeightPart part = stored.matrix({.name = name, .rows = place.tensor_rows, .cols = place.cols});
    for (auto at = std::lower_bound(names_.begin(), names_.end(), name + "."); at != names_.end(); ++at) {
      if (!at->starts_with(name + ".")) break;
      if (*at != name + ".bias") gone_.insert(*at);
    }
    tensors_.push_back(plain_tensor(name + ".weight", convert_part(part, *format_)));
  }

  const WeightSource& source_;
  const Checkpoint* checkpoint_;
  const std::optional<WeightFormat> format_;
  const std::vector<std::string> names_;  // sorted
  std::set<std::string> gone_;
  std::vector<std::string> plain_modules_;
  std::vector<OutputTensor> tensors_;
};

}  // namespace

std::optional<WeightFormat> parse_directory_format(const std::string& name) {
  if (name == "auto") return std::nullopt;
  std::string allowed = "auto";
  for (const WeightFormat format : kFormats) {
    if (name == weight_format_info(format).name) return format;
    allowed += str(", ", weight_format_info(format).name);
  }
  const auto is_known = [&](int i) { return name == weight_format_info(static_cast<WeightFormat>(i)).name; };
  bool is_gguf = false;
  for (int i = 0; i < kNumWeightFormats; ++i) is_gguf = is_gguf || is_known(i);
  throw InvalidArgument(str("the weight format of a directory must be one of ", allowed, "; ",
                            is_gguf ? name + " is a format of GGUF files: write OUT.gguf" : "got '" + name + "'"));
}

DirectoryExport export_directory(const WeightSource& source, const Checkpoint* checkpoint, std::optional<WeightFormat> format,
                                 const std::string& path, size_t max_file_bytes, ThreadPool& pool,
                                 const WriteProgress& progress) {
  DirectoryTensors tensors(source, checkpoint, format);
  const std::vector<OutputTensor> list = tensors.make();
  return {write_safetensors(path, list, max_file_bytes, pool, progress), tensors.plain_modules()};
}

}  // namespace pagoda

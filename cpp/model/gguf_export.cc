// Canonical parts, arranged as the architecture's GGUF layout says.
#include "model/gguf_export.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "core/check.h"
#include "io/ggml_type.h"
#include "io/quantise.h"
#include "model/config_difference.h"
#include "model/decoder_parts.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"
#include "model/registry.h"

namespace pagoda {
namespace {

constexpr uint32_t kQuantisationVersion = 2;  // of the block formats

bool is_plain_or_8_bit(WeightFormat format) { return !is_quantised(format) || format == WeightFormat::q8_0; }

/// Whether the format asked for is meant for matrices of this role, too.
bool takes_format(MatrixRole role) { return is_linear(role) || role == MatrixRole::embedding || role == MatrixRole::lm_head; }

/// llama.cpp's number for "mostly of this format".
uint32_t file_type(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
      return 0;
    case WeightFormat::f16:
      return 1;
    case WeightFormat::bf16:
      return 32;
    case WeightFormat::q8_0:
      return 7;
    case WeightFormat::q4_0:
      return 2;
    case WeightFormat::q4_1:
      return 3;
    case WeightFormat::q5_0:
      return 8;
    case WeightFormat::q5_1:
      return 9;
    case WeightFormat::q2_k:
      return 10;
    case WeightFormat::q3_k:
      return 12;
    case WeightFormat::q4_k:
      return 15;
    case WeightFormat::q5_k:
      return 17;
    case WeightFormat::q6_k:
      return 18;
    case WeightFormat::iq4_nl:
      return 25;
    case WeightFormat::iq4_xs:
      return 30;
    case WeightFormat::mxfp4:
      return 38;
    case WeightFormat::f8_e4m3:
    case WeightFormat::int8:
    case WeightFormat::int4:
      break;
  }
  throw InternalError(str("file_type of ", weight_format_info(format).name));
}

/// A stored tensor in the making: which row of which part each of its rows is.
struct Gathered {
  std::string name;
  std::vector<int64_t> shape;
  int64_t part_rows = 0;  ///< of each part, where parts are stacked in their order
  std::vector<WeightPart> parts;
  std::vector<std::pair<int32_t, int32_t>> rows;  ///< (part, row); empty: the parts are stacked

  std::pair<int64_t, int64_t> source_of(int64_t row) const {
    if (rows.empty()) return {row / part_rows, row % part_rows};
    return rows[static_cast<size_t>(row)];
  }
};

std::vector<int64_t> shape_of(const MatrixId& id, const MatrixPlace& place) {
  if (id.role == MatrixRole::shared_scale) return {place.cols};
  if (place.count > 0) return {place.count, place.tensor_rows, place.cols};
  return {place.tensor_rows, place.cols};
}

class GgufTensors {
 public:
  GgufTensors(const Checkpoint& checkpoint, const ModelConfig& config, const TensorLayout& layout)
      : config_(config),
        format_(checkpoint.weight_format),
        parts_({checkpoint.config, *checkpoint.source, checkpoint.quantisation.get(), checkpoint.weight_format, true}),
        places_(config, layout) {}

  std::vector<OutputTensor> make() {
    for (const RopeTensor& rope : rope_tensors(config_.rope)) add_vector(rope.name, rope.values);
    num_rope_tensors_ = tensors_.size();
    for (const MatrixId& id : matrices_of(config_)) add_matrix(id);
    for (const Gathered& gathered : matrices_) tensors_.push_back(output(gathered));
    add_vectors();
    return std::move(tensors_);
  }

  size_t num_rope_tensors() const { return num_rope_tensors_; }
  WeightFormat main_format() const {
    const auto most = std::max_element(bytes_of_.begin(), bytes_of_.end());
    return static_cast<WeightFormat>(most - bytes_of_.begin());
  }
  const std::string& expanded() const { return expanded_; }

 private:
  /// The part in a format that GGUF has and that was asked for.
  WeightPart writable(const WeightPart& part, MatrixRole role) {
    WeightFormat wanted = part.format;
    if (format_ && is_quantised(part.format) && takes_format(role) && is_plain_or_8_bit(*format_)) {
      wanted = part.cols % weight_format_info(*format_).block_values == 0 ? *format_ : WeightFormat::f16;
    }
    if (!find_ggml_type(wanted)) wanted = WeightFormat::f16;
    if (wanted == part.format) return part;
    const char *from = weight_format_info(part.format).name, *to = weight_format_info(wanted).name;
    if (!format_) expanded_ = str("GGUF has no type for ", from, ": such matrices are written as ", to);
    return convert_part(part, wanted);
  }

  void add_matrix(const MatrixId& id) {
    const MatrixPlace place = places_.matrix(id);
    ensure(!place.transposed, "transposed matrices in a GGUF layout");
    const auto [known, is_new] = by_name_.emplace(place.tensor, matrices_.size());
    if (is_new) matrices_.push_back({place.tensor + ".weight", shape_of(id, place), place.tensor_rows, {}, {}});
    Gathered& tensor = matrices_[known->second];
    const auto number = static_cast<int32_t>(tensor.parts.size());
    tensor.parts.push_back(writable(parts_.matrix(id), id.role));
    if (place.row_order.empty()) {
      ensure(number == place.index, "experts out of order");
    } else {
      tensor.rows.resize(static_cast<size_t>(std::max<int64_t>(1, place.count) * place.tensor_rows));
      for (int64_t i = 0; i < place.rows; ++i) {
        const int64_t at = place.index * place.tensor_rows + place.row_order[static_cast<size_t>(i)];
        tensor.rows[static_cast<size_t>(at)] = {number, static_cast<int32_t>(i)};
      }
    }
    if (has_bias(config_, id.role)) add_bias(id, place);
  }

  void add_bias(const MatrixId& id, const MatrixPlace& place) {
    const auto [known, is_new] = biases_by_name_.emplace(place.tensor, biases_.size());
    if (is_new) biases_.push_back({place.tensor + ".bias", place.count, place.tensor_rows, {}});
    Bias& bias = biases_[known->second];
    bias.values.resize(static_cast<size_t>(std::max<int64_t>(1, place.count) * place.tensor_rows));
    const std::vector<float> own = parts_.bias(id);
    for (int64_t i = 0; i < place.rows; ++i) {
      const int64_t at = place.row_order.empty() ? i : place.row_order[static_cast<size_t>(i)];
      bias.values[static_cast<size_t>(place.index * place.tensor_rows + at)] = own[static_cast<size_t>(i)];
    }
  }

  /// Rows of one format, made from their parts. Plain floats of several formats become f32.
  OutputTensor output(Gathered tensor) {
    const WeightFormat first = tensor.parts[0].format;
    const bool mixed =
        std::any_of(tensor.parts.begin(), tensor.parts.end(), [&](const WeightPart& part) { return part.format != first; });
    if (mixed) {
      for (WeightPart& part : tensor.parts) part = convert_part(part, WeightFormat::f32);
    }
    const WeightFormat format = tensor.parts[0].format;
    const int64_t cols = tensor.parts[0].cols;
    OutputTensor out{tensor.name, std::string(find_ggml_type(format)->name), tensor.shape, 0, weight_row_bytes(format, cols),
                     {}};
    for (const WeightPart& part : tensor.parts) out.num_rows += part.rows;
    bytes_of_[static_cast<size_t>(format)] += out.bytes();
    auto shared = std::make_shared<const Gathered>(std::move(tensor));
    out.read = [shared](int64_t row, std::byte* to) {
      const auto [part, from] = shared->source_of(row);
      read_row(shared->parts[static_cast<size_t>(part)], from, to);
    };
    return out;
  }

  void add_vectors() {
    for (const Bias& bias : biases_) {
      add_vector(bias.name, bias.values, bias.count > 0 ? std::vector{bias.count, bias.size} : std::vector{bias.size});
    }
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      for (const NormRole role : layer_norms_of(config_)) add_norm(role, layer);
      if (config_.qk_norm != QkNorm::none) {
        add_head_norm(places_.q_norm(layer), parts_.q_norm(layer), config_.num_heads);
        add_head_norm(places_.k_norm(layer), parts_.k_norm(layer), config_.kv_heads);
      }
      if (config_.attention_sinks) add_vector(places_.sinks(layer) + ".weight", parts_.sinks(layer));
    }
    add_norm(NormRole::final, 0);
  }

  void add_norm(NormRole role, int layer) {
    const std::string name = places_.norm(role, layer);
    if (config_.norm_weight) add_vector(name + ".weight", parts_.norm_weight(role, layer));
    if (config_.norm_bias) add_vector(name + ".bias", parts_.norm_bias(role, layer));
  }

  void add_head_norm(const HeadNormPlace& place, const std::vector<float>& values, int heads) {
    ensure(place.tensors.size() == 1, "a GGUF layout with a tensor for each head's norm");
    std::vector<float> stored = values;
    for (size_t i = 0; i < place.order.size(); ++i) stored[static_cast<size_t>(place.order[i])] = values[i];
    const bool own = config_.qk_norm == QkNorm::own_head;
    add_vector(place.tensors[0], stored,
               own ? std::vector<int64_t>{heads, config_.head_dim} : std::vector{static_cast<int64_t>(stored.size())});
  }

  void add_vector(const std::string& name, const std::vector<float>& values, std::vector<int64_t> shape = {}) {
    if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
    OutputTensor out{name, "F32", std::move(shape), 1, values.size() * sizeof(float), {}};
    out.read = [values](int64_t, std::byte* to) { std::memcpy(to, values.data(), values.size() * sizeof(float)); };
    tensors_.push_back(std::move(out));
  }

  struct Bias {
    std::string name;
    int64_t count;
    int64_t size;
    std::vector<float> values;
  };

  const ModelConfig& config_;
  const std::optional<WeightFormat> format_;
  const DecoderParts parts_;
  const TensorPlaces places_;
  std::vector<Gathered> matrices_;
  std::map<std::string, size_t> by_name_, biases_by_name_;
  std::vector<Bias> biases_;
  std::vector<OutputTensor> tensors_;
  size_t num_rope_tensors_ = 0;
  std::array<size_t, kNumWeightFormats> bytes_of_{};
  std::string expanded_;
};

/// The row that says how files of this model are written.
const Architecture& target_of(const Checkpoint& checkpoint) {
  const std::string& name = checkpoint.config.architecture;
  if (checkpoint.is_gguf) return find_gguf_architecture(name);
  const Architecture& architecture = find_hf_architecture(name);
  const char* target = architecture.gguf_name ? architecture.gguf_name : architecture.written_as;
  require(target, checkpoint.source->describe(), ": GGUF has no name for the architecture ", name,
          "; it can be converted to a directory only");
  return find_gguf_architecture(target);
}

/// What a GGUF file says of itself and of its tokenizer.
void take_over(const GgufFile& file, GgufMetadata& metadata) {
  for (const GgufEntry& entry : file.metadata()) {
    const bool taken = entry.key.starts_with("general.") || entry.key.starts_with("tokenizer.");
    if (taken && !metadata.has(entry.key)) metadata.set(entry.key, entry.value);
  }
}

/// Quantised matrices lose no more than their last bits when they are written with 8 bits or more.
void check_format(const Checkpoint& checkpoint, std::optional<WeightFormat> format) {
  if (!format || is_plain_or_8_bit(*format)) return;
  const char* name = weight_format_info(*format).name;
  require(!checkpoint.quantisation, checkpoint.source->describe(), ": weight format ", name,
          " is for weights of plain floats, but these are quantised already (",
          checkpoint.quantisation ? checkpoint.quantisation->describe() : "", "); choose auto, f32, f16, bf16 or q8_0");
  for (const TensorListing& tensor : checkpoint.source->list()) {
    const bool plain = tensor.type == "F32" || tensor.type == "F16" || tensor.type == "BF16";
    require(!checkpoint.is_gguf || plain || tensor.shape.size() < 2, checkpoint.source->describe(), ": weight format ", name,
            " is for weights of plain floats, but tensor ", tensor.name, " is ", tensor.type,
            " already; choose auto, f32, f16, bf16 or q8_0");
  }
}

/// Within the context that a model was trained on dynamic scaling does nothing.
ModelConfig expressible(const ModelConfig& config, std::vector<std::string>& notes) {
  ModelConfig result = config;
  if (config.rope.scaling != RopeScaling::dynamic || config.learned_positions) return result;
  result.rope.scaling = RopeScaling::none;
  result.rope.factor = 1;
  result.max_context = std::min(result.max_context, static_cast<int64_t>(config.rope.original_context));
  notes.push_back(str("GGUF has no dynamic rope scaling: the file's context is ", result.max_context,
                      " tokens, where the scaling does nothing, instead of ", config.max_context));
  return result;
}

/// Reads back what stands in the file so far: the description of the model and of all tensors.
void check_written(const std::string& path, const ModelConfig& wanted, const Architecture& architecture,
                   const std::string& source) {
  const GgufFile file(path);
  const ModelConfig found = read_gguf_config(file);
  const std::string difference = config_difference(wanted, found);
  require(difference.empty(), source, ": GGUF files of architecture '", architecture.gguf_name,
          "' cannot express this model: read back, ", difference, "; it can be converted to a directory only");
  const DecoderParts parts({found, file, nullptr, std::nullopt, false});
  for (const MatrixId& id : matrices_of(found)) parts.matrix(id);
}

}  // namespace

std::optional<WeightFormat> parse_gguf_format(const std::string& name) {
  if (name == "auto") return std::nullopt;
  std::string allowed = "auto";
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<WeightFormat>(i);
    if (!can_quantise(format) || !find_ggml_type(format)) continue;
    if (name == weight_format_info(format).name) return format;
    allowed += str(", ", weight_format_info(format).name);
  }
  throw InvalidArgument(str("the weight format of a GGUF file must be one of ", allowed, "; got '", name, "'"));
}

GgufExport export_gguf(Checkpoint& checkpoint, std::optional<WeightFormat> format, GgufMetadata metadata,
                       const std::string& path, ThreadPool& pool, const WriteProgress& progress) {
  const Architecture& architecture = target_of(checkpoint);
  check_format(checkpoint, format);
  checkpoint.weight_format = format;
  GgufExport result;
  const ModelConfig config = expressible(checkpoint.config, result.notes);
  GgufTensors tensors(checkpoint, config, architecture.gguf_layout);
  std::vector<OutputTensor> list = tensors.make();
  if (const auto* file = dynamic_cast<const GgufFile*>(checkpoint.source.get())) take_over(*file, metadata);
  write_gguf_config(config, architecture, metadata);
  metadata.set("general.file_type", file_type(tensors.main_format()));
  metadata.set("general.quantization_version", kQuantisationVersion);
  GgufWriter file(path, std::move(metadata), std::move(list));
  TensorWriter writer(pool, file.tensor_bytes(), progress);
  for (size_t i = 0; i < tensors.num_rope_tensors(); ++i) file.write_next(writer);
  check_written(path, config, architecture, checkpoint.source->describe());
  for (size_t i = tensors.num_rope_tensors(); i < file.num_tensors(); ++i) file.write_next(writer);
  file.finish();
  if (!tensors.expanded().empty()) result.notes.push_back(tensors.expanded());
  result.bytes = file.tensor_bytes();
  result.num_tensors = file.num_tensors();
  result.main_format = weight_format_info(tensors.main_format()).name;
  return result;
}

}  // namespace pagoda

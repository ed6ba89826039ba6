// Opening of checkpoints and the two ways to a decoder: planned and loaded.
#include "model/loader.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "io/gguf.h"
#include "io/quantise.h"
#include "io/safetensors.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"
#include "model/unused_tensors.h"

namespace pagoda {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

std::string read_text(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  require(!error && size <= kMaxConfigBytes, path.string(), ": cannot be read, or is larger than ", kMaxConfigBytes, " bytes",
          error ? ": " + error.message() : "");
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path.string(), ": cannot be opened");
  return {std::istreambuf_iterator<char>(file), {}};
}

Json read_json(const fs::path& path) {
  Json::ParseOptions options;
  options.source = path.string();
  return Json::parse(read_text(path), options);
}

void add_generation_eos(const fs::path& directory, ModelConfig& config) {
  const fs::path path = directory / "generation_config.json";
  if (fs::exists(path)) add_eos_tokens(read_json(path), "generation_config.json", config);
}

/// A head that is stored and is not the embedding's copy is the head, whatever config.json says: so it is in transformers.
void untie_own_head(Checkpoint& checkpoint) {
  ModelConfig& config = checkpoint.config;
  if (!config.tied_embeddings) return;
  const auto stored = [&](const char* name) { return checkpoint.source->find_bytes(str(name, ".weight")); };
  const std::optional<TensorBytes> head = stored(config.layout.names->lm_head);
  const std::optional<TensorBytes> embedding = stored(config.layout.names->embedding);
  if (!head || !embedding) return;
  config.tied_embeddings = head->bytes == embedding->bytes && std::memcmp(head->data, embedding->data, head->bytes) == 0;
}

/// Quantising what is quantised already would lose precision twice.
void check_not_quantised(const Checkpoint& checkpoint) {
  if (!checkpoint.weight_format) return;
  const std::string name = weight_format_info(*checkpoint.weight_format).name;
  require(!checkpoint.quantisation, checkpoint.source->describe(), ": weight_format ", name,
          " is for checkpoints of plain floats, but this one is quantised already (",
          checkpoint.quantisation ? checkpoint.quantisation->describe() : "", "); leave weight_format at auto");
  for (const TensorListing& tensor : checkpoint.source->list()) {
    const bool plain = tensor.type == "F32" || tensor.type == "F16" || tensor.type == "BF16";
    require(!checkpoint.is_gguf || plain || tensor.shape.size() < 2, checkpoint.source->describe(), ": weight_format ", name,
            " is for checkpoints of plain floats, but tensor ", tensor.name, " is ", tensor.type,
            "; leave weight_format at auto");
  }
}

void read_directory(const std::string& path, Checkpoint& checkpoint) {
  const fs::path config = fs::path(path) / "config.json";
  require(fs::exists(config), path, ": config.json is missing; a model directory holds config.json and safetensors files");
  const Json json = read_json(config);
  try {
    checkpoint.config = read_hf_config(json);
    checkpoint.quantisation = HfQuantisation::read(json);
  } catch (const InvalidArgument& error) {
    const std::string_view message = error.what(), file = "config.json: ";
    throw InvalidArgument(str(config.string(), ": ", message.substr(message.starts_with(file) ? file.size() : 0)));
  }
  add_generation_eos(path, checkpoint.config);
}

void choose_names(Checkpoint& checkpoint) {
  const Architecture& architecture = find_hf_architecture(checkpoint.config.architecture);
  if (architecture.choose_names) architecture.choose_names(*checkpoint.source, checkpoint.config);
  untie_own_head(checkpoint);
}

WeightPlan weight_plan(const Checkpoint& checkpoint, const WeightSource& source, int64_t num_positions) {
  return {checkpoint.config, source, checkpoint.quantisation.get(), checkpoint.weight_format, num_positions};
}

}  // namespace

std::optional<WeightFormat> parse_weight_format(const std::string& name) {
  if (name == "auto") return std::nullopt;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<WeightFormat>(i);
    if (name == weight_format_info(format).name && can_quantise(format)) return format;
  }
  throw InvalidArgument(str("weight_format must be auto or one of ", quantisable_formats(), ", got '", name, "'"));
}

Checkpoint open_checkpoint(const std::string& path, const std::string& weight_format) {
  Checkpoint checkpoint;
  checkpoint.weight_format = parse_weight_format(weight_format);
  if (!fs::is_directory(path)) {
    auto file = std::make_unique<GgufFile>(path);
    checkpoint.config = read_gguf_config(*file);
    checkpoint.source = std::move(file);
    checkpoint.is_gguf = true;
  } else {
    read_directory(path, checkpoint);
    checkpoint.source = open_safetensors(path);
    choose_names(checkpoint);
  }
  check_not_quantised(checkpoint);
  return checkpoint;
}

Checkpoint open_checkpoint(const std::string& directory, std::unique_ptr<WeightSource> weights) {
  Checkpoint checkpoint;
  read_directory(directory, checkpoint);
  checkpoint.source = std::move(weights);
  choose_names(checkpoint);
  return checkpoint;
}

std::unique_ptr<Decoder> plan_decoder(const Checkpoint& checkpoint, const BackendTraits& traits, int64_t num_positions) {
  const TrackedSource source(*checkpoint.source);
  DecoderWeights weights = plan_weights(weight_plan(checkpoint, source, num_positions), traits);
  refuse_unused_tensors(source, checkpoint.config);
  return std::make_unique<Decoder>(checkpoint.config, std::move(weights));
}

std::unique_ptr<Decoder> load_decoder(const Checkpoint& checkpoint, Backend& backend, int64_t num_positions,
                                      const LoadProgress& progress) {
  const WeightPlan plan = weight_plan(checkpoint, *checkpoint.source, num_positions);
  return std::make_unique<Decoder>(checkpoint.config, pack_weights(plan, backend, progress));
}

}  // namespace pagoda

// Loading in two passes over the same description: `plan` counts bytes, `load` packs. Both see the same parts, so the plan is
// exact.
#include "model/loader.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "io/dequantise.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/rope_table.h"
#include "model/tensor_names.h"

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

/// Rows of a head stored as interleaved pairs (0, h/2, 1, h/2 + 1, ...) back in half-split order.
std::vector<int32_t> half_split_order(int num_heads, int head_dim) {
  std::vector<int32_t> order;
  for (int head = 0; head < num_heads; ++head) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < head_dim / 2; ++i) order.push_back(head * head_dim + 2 * i + half);
    }
  }
  return order;
}

/// Walks the checkpoint in a fixed order and turns tensors into weights. Without a backend it only measures.
class Builder {
 public:
  Builder(const Checkpoint& checkpoint, const BackendTraits& traits, Backend* backend, const LoadProgress* progress)
      : config_(checkpoint.config),
        source_(*checkpoint.source),
        names_(checkpoint.is_gguf ? kGgufNames : kHfNames),
        traits_(traits),
        backend_(backend),
        progress_(progress),
        num_matrices_(checkpoint.config.num_layers * 4 + (checkpoint.config.tied_embeddings ? 1 : 2)) {}

  DecoderWeights build(int64_t num_positions) {
    const int64_t hidden = config_.hidden_size;
    weights_.embedding = matrix({part(names_.embedding, config_.vocab_size, hidden)});
    for (int layer = 0; layer < config_.num_layers; ++layer) weights_.layers.push_back(build_layer(layer));
    weights_.final_norm = vector({{std::string(names_.final_norm) + ".weight", hidden, {}}});
    weights_.lm_head =
        config_.tied_embeddings ? weights_.embedding : matrix({part(names_.lm_head, config_.vocab_size, hidden)});
    const int64_t table_size = num_positions * config_.rope.rotary_dim;
    weights_.cos_sin = backend_ ? upload(make_rope_table(config_.rope, num_positions)) : count(table_size);
    return std::move(weights_);
  }

 private:
  /// A vector of `size` values, its entries taken in `order` if that is not empty.
  struct VectorPart {
    std::string name;
    int64_t size;
    std::vector<int32_t> order;
  };

  DecoderLayer build_layer(int layer) {
    const auto name = [&](const char* part) { return layer_tensor(names_, layer, part); };
    const int64_t hidden = config_.hidden_size, intermediate = config_.intermediate_size;
    const int64_t q_rows = int64_t{config_.num_heads} * config_.head_dim,
                  kv_rows = int64_t{config_.kv_heads} * config_.head_dim;
    std::vector<int32_t> q_order, k_order;
    if (config_.rope_rows_interleaved) {
      q_order = half_split_order(config_.num_heads, config_.head_dim);
      k_order = half_split_order(config_.kv_heads, config_.head_dim);
    }
    DecoderLayer w;
    w.qkv = matrix({part(name(names_.q), q_rows, hidden, q_order), part(name(names_.k), kv_rows, hidden, k_order),
                    part(name(names_.v), kv_rows, hidden)});
    w.out = matrix({part(name(names_.out), hidden, q_rows)});
    w.gate_up = matrix({part(name(names_.gate), intermediate, hidden), part(name(names_.up), intermediate, hidden)});
    w.down = matrix({part(name(names_.down), hidden, intermediate)});
    w.attn_norm = vector({{name(names_.attn_norm) + ".weight", hidden, {}}});
    w.mlp_norm = vector({{name(names_.mlp_norm) + ".weight", hidden, {}}});
    if (config_.qk_norm) {
      w.q_norm = vector({{name(names_.q_norm) + ".weight", config_.head_dim, {}}});
      w.k_norm = vector({{name(names_.k_norm) + ".weight", config_.head_dim, {}}});
    }
    if (config_.qkv_bias) {
      w.qkv_bias = vector({{name(names_.q) + ".bias", q_rows, q_order},
                           {name(names_.k) + ".bias", kv_rows, k_order},
                           {name(names_.v) + ".bias", kv_rows, {}}});
    }
    if (config_.out_bias) w.out_bias = vector({{name(names_.out) + ".bias", hidden, {}}});
    if (config_.mlp_bias) {
      w.gate_up_bias = vector({{name(names_.gate) + ".bias", intermediate, {}}, {name(names_.up) + ".bias", intermediate, {}}});
      w.down_bias = vector({{name(names_.down) + ".bias", hidden, {}}});
    }
    return w;
  }

  const StoredTensor& find(const std::string& name, std::vector<int64_t> shape) const {
    const StoredTensor* tensor = source_.find(name);
    require(tensor, source_.describe(), ": tensor ", name, " is missing");
    require(tensor->shape == shape, source_.describe(), ": tensor ", name, " has shape ", describe(tensor->shape),
            ", expected ", describe(shape), " from the model configuration");
    return *tensor;
  }

  static std::string describe(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }

  WeightPart part(const std::string& name, int64_t rows, int64_t cols, std::vector<int32_t> row_order = {}) const {
    const StoredTensor& tensor = find(name + ".weight", {rows, cols});
    return {tensor.format, rows, cols, tensor.data, std::move(row_order)};
  }

  Weight matrix(std::vector<WeightPart> parts) {
    Weight weight;
    if (backend_) {
      weight = backend_->pack(parts);
      if (progress_ && *progress_) (*progress_)(++matrices_done_, num_matrices_);
    } else {
      weight.cols = parts[0].cols;
      for (const WeightPart& part : parts) {
        weight.rows += part.rows;
        weight.part_formats.push_back(part.format);
      }
      weight.bytes = traits_.packed_bytes(parts);
    }
    weights_.bytes += weight.bytes;
    return weight;
  }

  const float* vector(const std::vector<VectorPart>& parts) {
    std::vector<float> values;
    for (const VectorPart& part : parts) {
      const StoredTensor& tensor = find(part.name, {part.size});
      std::vector<float> stored(static_cast<size_t>(part.size));
      if (backend_) dequantise_row(tensor.format, tensor.data, part.size, stored.data());
      for (size_t i = 0; i < stored.size(); ++i)
        values.push_back(part.order.empty() ? stored[i] : stored[static_cast<size_t>(part.order[i])]);
    }
    return backend_ ? upload(values) : count(static_cast<int64_t>(values.size()));
  }

  const float* upload(const std::vector<float>& values) {
    count(static_cast<int64_t>(values.size()));
    const size_t bytes = values.size() * sizeof(float);
    weights_.buffers.push_back(backend_->allocate(bytes));
    backend_->upload(weights_.buffers.back().get(), values.data(), bytes);
    return static_cast<const float*>(weights_.buffers.back().get());
  }

  const float* count(int64_t num_values) {
    weights_.bytes += static_cast<size_t>(num_values) * sizeof(float);
    return nullptr;
  }

  const ModelConfig& config_;
  const WeightSource& source_;
  const TensorNames& names_;
  const BackendTraits& traits_;
  Backend* backend_;
  const LoadProgress* progress_;
  int64_t num_matrices_;
  int64_t matrices_done_ = 0;
  DecoderWeights weights_;
};

}  // namespace

Checkpoint open_checkpoint(const std::string& path) {
  Checkpoint checkpoint;
  if (!fs::is_directory(path)) {
    auto file = std::make_unique<GgufFile>(path);
    checkpoint.config = read_gguf_config(*file);
    checkpoint.source = std::move(file);
    checkpoint.is_gguf = true;
    return checkpoint;
  }
  const fs::path config = fs::path(path) / "config.json";
  require(fs::exists(config), path, ": config.json is missing; a model directory holds config.json and safetensors files");
  checkpoint.config = read_hf_config(read_json(config));
  add_generation_eos(path, checkpoint.config);
  checkpoint.source = open_safetensors(path);
  return checkpoint;
}

std::unique_ptr<Decoder> plan_decoder(const Checkpoint& checkpoint, const BackendTraits& traits, int64_t num_positions) {
  return std::make_unique<Decoder>(checkpoint.config, Builder(checkpoint, traits, nullptr, nullptr).build(num_positions));
}

std::unique_ptr<Decoder> load_decoder(const Checkpoint& checkpoint, Backend& backend, int64_t num_positions,
                                      const LoadProgress& progress) {
  return std::make_unique<Decoder>(checkpoint.config,
                                   Builder(checkpoint, backend.traits(), &backend, &progress).build(num_positions));
}

}  // namespace pagoda

// Llama models of any size with random bf16 weights, made in memory: no file of weights, no download, no Python. Used by the
// device tests and by bench/gpu.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"
#include "io/memory_weights.h"
#include "model/loader.h"

namespace pagoda::device_test {

struct ModelShape {
  int64_t vocab = 0, hidden = 0, intermediate = 0;
  int num_layers = 0, num_heads = 0, kv_heads = 0, head_dim = 0;
  int64_t max_context = 0;
};

/// Owns the numbers; checkpoints that it made must not outlive it. All tensors are windows, each begun elsewhere, of one array
/// of normally distributed numbers, so that a large model costs the time and memory of its largest tensor.
class RandomModel {
 public:
  RandomModel(const ModelShape& shape, unsigned seed) : shape_(shape) {
    const int64_t qkv_cols = int64_t{shape.num_heads} * shape.head_dim;
    const int64_t largest = std::max(shape.vocab, std::max(shape.intermediate, qkv_cols)) * shape.hidden;
    numbers_.resize(static_cast<size_t>(largest) + kWindows);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1.2f / std::sqrt(static_cast<float>(shape.hidden)));
    // Numbers repeat where that cannot be seen: a prime number apart.
    const size_t distinct = std::min(numbers_.size(), kDistinct);
    for (size_t i = 0; i < distinct; ++i) numbers_[i] = float_to_bf16(normal(random));
    for (size_t i = distinct; i < numbers_.size(); ++i) numbers_[i] = numbers_[i - distinct];
    ones_.assign(static_cast<size_t>(shape.hidden), float_to_bf16(1.0f));
    add_tensors();
  }

  Checkpoint checkpoint() const {
    const std::filesystem::path folder =
        std::filesystem::temp_directory_path() / str("pagoda-random-model-", std::random_device{}());
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "config.json") << config();
    Checkpoint checkpoint = open_checkpoint(folder.string(), make_memory_weights("random weights", tensors_));
    std::filesystem::remove_all(folder);
    return checkpoint;
  }

  int64_t num_weights() const {
    int64_t sum = 0;
    for (const MemoryTensor& tensor : tensors_) sum += static_cast<int64_t>(tensor.bytes / 2);
    return sum;
  }

 private:
  static constexpr size_t kDistinct = 1000003;
  static constexpr size_t kWindows = 65536;

  std::string config() const {
    return str(R"({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "rope_theta": 500000, "vocab_size": )",
               shape_.vocab, R"(, "hidden_size": )", shape_.hidden, R"(, "intermediate_size": )", shape_.intermediate,
               R"(, "num_hidden_layers": )", shape_.num_layers, R"(, "num_attention_heads": )", shape_.num_heads,
               R"(, "num_key_value_heads": )", shape_.kv_heads, R"(, "head_dim": )", shape_.head_dim,
               R"(, "max_position_embeddings": )", shape_.max_context, "}");
  }

  void add_tensors() {
    const int64_t q = int64_t{shape_.num_heads} * shape_.head_dim, kv = int64_t{shape_.kv_heads} * shape_.head_dim;
    add("model.embed_tokens.weight", {shape_.vocab, shape_.hidden});
    add("lm_head.weight", {shape_.vocab, shape_.hidden});
    add("model.norm.weight", {shape_.hidden});
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      const std::string at = str("model.layers.", layer, ".");
      add(at + "input_layernorm.weight", {shape_.hidden});
      add(at + "post_attention_layernorm.weight", {shape_.hidden});
      add(at + "self_attn.q_proj.weight", {q, shape_.hidden});
      add(at + "self_attn.k_proj.weight", {kv, shape_.hidden});
      add(at + "self_attn.v_proj.weight", {kv, shape_.hidden});
      add(at + "self_attn.o_proj.weight", {shape_.hidden, q});
      add(at + "mlp.gate_proj.weight", {shape_.intermediate, shape_.hidden});
      add(at + "mlp.up_proj.weight", {shape_.intermediate, shape_.hidden});
      add(at + "mlp.down_proj.weight", {shape_.hidden, shape_.intermediate});
    }
  }

  void add(std::string name, std::vector<int64_t> shape) {
    int64_t numel = 1;
    for (const int64_t size : shape) numel *= size;
    const size_t begin = tensors_.size() * 7919 % kWindows;
    const uint16_t* data = shape.size() == 1 ? ones_.data() : numbers_.data() + begin;
    tensors_.push_back(
        {std::move(name), "BF16", std::move(shape), reinterpret_cast<const std::byte*>(data), static_cast<size_t>(numel) * 2});
  }

  ModelShape shape_;
  std::vector<uint16_t> numbers_, ones_;
  std::vector<MemoryTensor> tensors_;
};

}  // namespace pagoda::device_test

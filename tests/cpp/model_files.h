// A tiny Llama checkpoint that model tests write to disk and damage: config.json as text, tensors of small numbers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "io_test_files.h"
#include "model/hf_config.h"

namespace pagoda {

/// 2 layers, hidden 32, 4 heads and 2 KV heads of 8, intermediate 48, vocabulary 40, context 64.
inline std::map<std::string, std::string> tiny_config() {
  return {{"architectures", R"(["LlamaForCausalLM"])"},
          {"vocab_size", "40"},
          {"hidden_size", "32"},
          {"intermediate_size", "48"},
          {"num_hidden_layers", "2"},
          {"num_attention_heads", "4"},
          {"num_key_value_heads", "2"},
          {"max_position_embeddings", "64"},
          {"rms_norm_eps", "1e-5"}};
}

inline std::string to_json(const std::map<std::string, std::string>& values) {
  std::string text;
  for (const auto& [key, value] : values) text += (text.empty() ? "{\"" : ", \"") + key + "\": " + value;
  return text + "}";
}

inline ModelConfig config_of(const std::map<std::string, std::string>& values) {
  return read_hf_config(Json::parse(to_json(values)));
}

/// tiny_config() with some values replaced.
inline ModelConfig config_with(const std::map<std::string, std::string>& changes) {
  auto values = tiny_config();
  for (const auto& [key, value] : changes) values[key] = value;
  return config_of(values);
}

/// name -> shape of every tensor of tiny_config().
inline std::map<std::string, std::vector<int64_t>> tiny_tensors() {
  std::map<std::string, std::vector<int64_t>> shapes = {
      {"model.embed_tokens.weight", {40, 32}}, {"model.norm.weight", {32}}, {"lm_head.weight", {40, 32}}};
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    const std::string at = layer;
    shapes[at + "input_layernorm.weight"] = shapes[at + "post_attention_layernorm.weight"] = {32};
    shapes[at + "self_attn.q_proj.weight"] = shapes[at + "self_attn.o_proj.weight"] = {32, 32};
    shapes[at + "self_attn.k_proj.weight"] = shapes[at + "self_attn.v_proj.weight"] = {16, 32};
    shapes[at + "mlp.gate_proj.weight"] = shapes[at + "mlp.up_proj.weight"] = {48, 32};
    shapes[at + "mlp.down_proj.weight"] = {32, 48};
  }
  return shapes;
}

/// A safetensors file of f32 tensors with reproducible small values.
inline std::string safetensors_bytes(const std::map<std::string, std::vector<int64_t>>& shapes) {
  std::string header, data;
  uint32_t state = 1;
  for (const auto& [name, shape] : shapes) {
    const size_t begin = data.size();
    int64_t count = 1;
    std::string dims;
    for (int64_t dim : shape) {
      count *= dim;
      dims += (dims.empty() ? "" : ", ") + std::to_string(dim);
    }
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      data += raw(static_cast<float>(state >> 8) / static_cast<float>(1 << 24) - 0.5f);
    }
    header += (header.empty() ? "{\"" : ", \"") + name + R"(": {"dtype": "F32", "shape": [)" + dims +
              R"(], "data_offsets": [)" + std::to_string(begin) + ", " + std::to_string(data.size()) + "]}";
  }
  header += "}";
  return raw(static_cast<uint64_t>(header.size())) + header + data;
}

/// Writes a model directory into `directory`.
inline void write_model(const TempDir& directory, const std::map<std::string, std::string>& config,
                        const std::map<std::string, std::vector<int64_t>>& tensors) {
  directory.write("config.json", to_json(config));
  directory.write("model.safetensors", safetensors_bytes(tensors));
}

}  // namespace pagoda

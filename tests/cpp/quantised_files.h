// Tensors of quantised Hugging Face checkpoints, packed bit by bit from the published layouts, and a source that serves them.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "io/safetensors.h"
#include "io_test_files.h"

namespace pagoda {

/// A tensor as a safetensors file holds it.
struct FileTensor {
  std::string type;
  std::vector<int64_t> shape;
  std::string bytes;
};

using FileTensors = std::map<std::string, FileTensor>;

inline std::string safetensors_of(const FileTensors& tensors) {
  std::string header, data;
  for (const auto& [name, tensor] : tensors) {
    std::string dims;
    for (const int64_t dim : tensor.shape) dims += (dims.empty() ? "" : ", ") + std::to_string(dim);
    header += (header.empty() ? "{\"" : ", \"") + name + R"(": {"dtype": ")" + tensor.type + R"(", "shape": [)" + dims +
              R"(], "data_offsets": [)" + std::to_string(data.size()) + ", " +
              std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  header += header.empty() ? "{}" : "}";
  return raw(static_cast<uint64_t>(header.size())) + header + data;
}

/// Numbers of `bits` bits at freely chosen places of 32-bit words.
class Words {
 public:
  Words(int64_t rows, int64_t cols, int bits) : bits_(bits), shape_{rows, cols}, words_(static_cast<size_t>(rows * cols)) {}
  void set(int64_t row, int64_t col, int64_t slot, int value) {
    words_[static_cast<size_t>(row * shape_[1] + col)] |= static_cast<uint32_t>(value) << (bits_ * slot);
  }
  void subtract_from_all(uint32_t number) {
    for (uint32_t& word : words_) word -= number;
  }
  FileTensor tensor() const {
    std::string bytes;
    for (const uint32_t word : words_) bytes += raw(word);
    return {"I32", shape_, bytes};
  }

 private:
  int bits_;
  std::vector<int64_t> shape_;
  std::vector<uint32_t> words_;
};

/// A matrix of integers q, with zeros and scales for every row and group of adjacent columns; all drawn from a seed.
struct TestMatrix {
  int bits = 4;
  int64_t rows = 16, cols = 64, group = 32;
  std::vector<int> q, zeros;  // [rows][cols], [rows][groups]
  std::vector<float> scales;  // [rows][groups], exact in f16 and bf16
  std::vector<int> group_of;  // [cols]

  TestMatrix(int bits_, int64_t rows_, int64_t cols_, int64_t group_, bool central_zeros)
      : bits(bits_), rows(rows_), cols(cols_), group(group_) {
    for (int64_t i = 0; i < rows * cols; ++i) q.push_back(draw() % (1 << bits));
    for (int64_t i = 0; i < rows * groups(); ++i) {
      zeros.push_back(central_zeros ? 1 << (bits - 1) : draw() % (1 << bits));
      scales.push_back(std::ldexp(static_cast<float>(1 + draw() % 127), -10));
    }
    for (int64_t k = 0; k < cols; ++k) group_of.push_back(static_cast<int>(k / group));
  }

  int64_t groups() const { return (cols + group - 1) / group; }
  int at(int64_t row, int64_t k) const { return q[static_cast<size_t>(row * cols + k)]; }
  int zero(int64_t row, int64_t g) const { return zeros[static_cast<size_t>(row * groups() + g)]; }
  float scale(int64_t row, int64_t g) const { return scales[static_cast<size_t>(row * groups() + g)]; }
  float value(int64_t row, int64_t k) const {
    const int64_t g = group_of[static_cast<size_t>(k)];
    return scale(row, g) * static_cast<float>(at(row, k) - zero(row, g));
  }

  /// [rows, groups], or the other way round.
  FileTensor scale_tensor(const std::string& type, bool transposed) const {
    std::string bytes;
    for (int64_t i = 0; i < rows * groups(); ++i) {
      const float s = transposed ? scale(i % rows, i / rows) : scale(i / groups(), i % groups());
      bytes += type == "F32" ? raw(s) : type == "F16" ? raw(float_to_f16(s)) : raw(float_to_bf16(s));
    }
    return {type, transposed ? std::vector<int64_t>{groups(), rows} : std::vector<int64_t>{rows, groups()}, bytes};
  }

 private:
  int draw() {
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<int>(state_ >> 16 & 0x7fff);
  }
  uint32_t state_ = 7;
};

/// AutoAWQ's "gemm": eight rows to a word, row j of them at slot 0 4 1 5 2 6 3 7.
inline FileTensors awq_tensors(const std::string& name, const TestMatrix& m) {
  constexpr int kSlot[] = {0, 4, 1, 5, 2, 6, 3, 7};
  Words weights(m.cols, m.rows / 8, 4), zeros(m.groups(), m.rows / 8, 4);
  for (int64_t row = 0; row < m.rows; ++row) {
    for (int64_t k = 0; k < m.cols; ++k) weights.set(k, row / 8, kSlot[row % 8], m.at(row, k));
    for (int64_t g = 0; g < m.groups(); ++g) zeros.set(g, row / 8, kSlot[row % 8], m.zero(row, g));
  }
  return {{name + ".qweight", weights.tensor()},
          {name + ".qzeros", zeros.tensor()},
          {name + ".scales", m.scale_tensor("F16", true)}};
}

/// AutoGPTQ: columns from the lowest bits of their words, a zero one less than it is unless `v2`.
inline FileTensors gptq_tensors(const std::string& name, const TestMatrix& m, bool v2, bool with_order) {
  const int64_t per = 32 / m.bits;
  Words weights(m.cols / per, m.rows, m.bits), zeros(m.groups(), (m.rows + per - 1) / per, m.bits);
  for (int64_t row = 0; row < m.rows; ++row) {
    for (int64_t k = 0; k < m.cols; ++k) weights.set(k / per, row, k % per, m.at(row, k));
    for (int64_t g = 0; g < m.groups(); ++g) zeros.set(g, row / per, row % per, m.zero(row, g));
  }
  if (!v2) zeros.subtract_from_all(m.bits == 4 ? 0x11111111u : 0x01010101u);
  FileTensors tensors = {{name + ".qweight", weights.tensor()},
                         {name + ".qzeros", zeros.tensor()},
                         {name + ".scales", m.scale_tensor("F16", true)}};
  if (with_order) {
    std::string order;
    for (const int g : m.group_of) order += raw(static_cast<int32_t>(g));
    tensors[name + ".g_idx"] = {"I32", {m.cols}, order};
  }
  return tensors;
}

/// compressed-tensors "pack-quantized": columns from the lowest bits, zeros down the rows.
inline FileTensors packed_tensors(const std::string& name, const TestMatrix& m, bool symmetric, const std::string& scale_type) {
  const int64_t per = 32 / m.bits;
  Words weights(m.rows, (m.cols + per - 1) / per, m.bits), zeros((m.rows + per - 1) / per, m.groups(), m.bits);
  for (int64_t row = 0; row < m.rows; ++row) {
    for (int64_t k = 0; k < m.cols; ++k) weights.set(row, k / per, k % per, m.at(row, k));
    for (int64_t g = 0; g < m.groups(); ++g) zeros.set(row / per, g, row % per, m.zero(row, g));
  }
  FileTensors tensors = {{name + ".weight_packed", weights.tensor()},
                         {name + ".weight_scale", m.scale_tensor(scale_type, false)},
                         {name + ".weight_shape", {"I64", {2}, raw(m.rows) + raw(m.cols)}}};
  if (!symmetric) tensors[name + ".weight_zero_point"] = zeros.tensor();
  return tensors;
}

/// compressed-tensors "int-quantized": signed bytes.
inline FileTensors int8_tensors(const std::string& name, const TestMatrix& m, bool symmetric) {
  std::string weights, zeros;
  for (const int q : m.q) weights += static_cast<char>(q - 128);
  for (const int z : m.zeros) zeros += static_cast<char>(z - 128);
  FileTensors tensors = {{name + ".weight", {"I8", {m.rows, m.cols}, weights}},
                         {name + ".weight_scale", m.scale_tensor("BF16", false)}};
  if (!symmetric) tensors[name + ".weight_zero_point"] = {"I8", {m.rows, m.groups()}, zeros};
  return tensors;
}

/// An e4m3 byte as a number, by its definition: 4 exponent bits of bias 7, 3 of mantissa, no infinity.
inline float e4m3(int byte) {
  const int exponent = byte >> 3 & 15, mantissa = byte & 7;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                   : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((byte & 0x7f) == 0x7f) return NAN;
  return byte & 0x80 ? -size : size;
}

}  // namespace pagoda

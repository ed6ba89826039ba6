// Rows of integer matrices, block by block.
#include "model/integer_matrix.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"
#include "core/weight_format.h"

namespace pagoda {
namespace {

template <class T>
std::byte* put(std::byte* out, T value) {
  std::memcpy(out, &value, sizeof value);
  return out + sizeof value;
}

int zero_of(const IntegerMatrix& m, int64_t row, int64_t group) { return m.zero ? m.zero(row, group) : 1 << (m.bits - 1); }

bool zeros_are_central(const IntegerMatrix& m) {
  for (int64_t group = 0; m.zero && group < m.groups.count(); ++group) {
    for (int64_t row = 0; row < m.rows; ++row) {
      if (m.zero(row, group) != 1 << (m.bits - 1)) return false;
    }
  }
  return true;
}

WeightFormat choose_format(const IntegerMatrix& m) {
  if (m.groups.fit_blocks()) {
    const bool central = zeros_are_central(m);
    if (central && m.scales.is_f16()) return m.bits == 4 ? WeightFormat::q4_0 : WeightFormat::q8_0;
    if (m.bits == 4) return WeightFormat::int4;
    if (central) return WeightFormat::int8;
  }
  return m.scales.is_f16() ? WeightFormat::f16 : WeightFormat::f32;
}

std::byte* put_nibbles(std::byte* out, const uint8_t* q) {
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::byte>(q[i] | q[i + 16] << 4);
  return out + 16;
}

std::byte* put_bytes(std::byte* out, const uint8_t* q) {
  for (int64_t i = 0; i < kBlockValues; ++i) out[i] = static_cast<std::byte>(q[i] ^ 0x80);
  return out + kBlockValues;
}

void write_blocks(const IntegerMatrix& m, WeightFormat format, int64_t row, const uint8_t* q, std::byte* out) {
  for (int64_t k = 0; k < m.cols; k += kBlockValues) {
    const int64_t group = m.groups.of(k);
    const float scale = m.scales.at(row, group);
    const bool is_f16 = format == WeightFormat::q4_0 || format == WeightFormat::q8_0;
    out = is_f16 ? put(out, float_to_f16(scale)) : put(out, scale);
    if (format == WeightFormat::int4) out = put(out, static_cast<float>(zero_of(m, row, group)));
    out = m.bits == 4 ? put_nibbles(out, q + k) : put_bytes(out, q + k);
  }
}

void write_values(const IntegerMatrix& m, WeightFormat format, int64_t row, const uint8_t* q, std::byte* out) {
  std::vector<float> scales;
  std::vector<int> zeros;
  for (int64_t group = 0; group < m.groups.count(); ++group) {
    scales.push_back(m.scales.at(row, group));
    zeros.push_back(zero_of(m, row, group));
  }
  for (int64_t k = 0; k < m.cols; ++k) {
    const auto group = static_cast<size_t>(m.groups.of(k));
    const float value = scales[group] * static_cast<float>(q[k] - zeros[group]);
    out = format == WeightFormat::f16 ? put(out, float_to_f16(value)) : put(out, value);
  }
}

}  // namespace

WeightPart integer_part(IntegerMatrix matrix) {
  ensure(matrix.bits == 4 || matrix.bits == 8, "an integer matrix of ", matrix.bits, " bits");
  WeightPart part;
  part.format = choose_format(matrix);
  part.rows = matrix.rows;
  part.cols = matrix.cols;
  part.read = [m = std::make_shared<const IntegerMatrix>(std::move(matrix)), format = part.format](int64_t row,
                                                                                                   std::byte* out) {
    std::vector<uint8_t> q(static_cast<size_t>(m->cols));
    m->unpack(row, q.data());
    const auto write = is_quantised(format) ? write_blocks : write_values;
    write(*m, format, row, q.data(), out);
  };
  return part;
}

}  // namespace pagoda

// Scalar decoding of stored rows; the block layouts stand in core/weight_format.h.
#include "io/dequantise.h"

#include <cstring>

#include "core/check.h"
#include "core/dtype.h"

namespace pagoda {
namespace {

constexpr int kBlock = 32;

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float load_f16(const std::byte* from) { return f16_to_float(load<uint16_t>(from)); }

/// Value i of 16 bytes of nibbles: low halves first, then high halves.
int nibble(const std::byte* nibbles, int i) {
  const auto byte = static_cast<int>(nibbles[i % 16]);
  return i < 16 ? byte & 15 : byte >> 4;
}

void dequantise_block(WeightFormat format, const std::byte* block, float* out) {
  const float scale = load_f16(block);
  for (int i = 0; i < kBlock; ++i) {
    switch (format) {
      case WeightFormat::q8_0:
        out[i] = scale * static_cast<float>(load<int8_t>(block + 2 + i));
        break;
      case WeightFormat::q4_0:
        out[i] = scale * static_cast<float>(nibble(block + 2, i) - 8);
        break;
      case WeightFormat::q4_1:
        out[i] = scale * static_cast<float>(nibble(block + 4, i)) + load_f16(block + 2);
        break;
      default:
        throw InternalError("dequantise_block of a plain format");
    }
  }
}

}  // namespace

void dequantise_row(WeightFormat format, const std::byte* row, int64_t cols, float* out) {
  const auto [name, block_values, block_bytes] = weight_format_info(format);
  ensure(cols >= 0 && cols % block_values == 0, "a row of ", cols, " values in format ", name, " with blocks of ",
         block_values);
  for (int64_t i = 0; i < cols; i += block_values, row += block_bytes, out += block_values) {
    switch (format) {
      case WeightFormat::f32:
        *out = load<float>(row);
        break;
      case WeightFormat::f16:
        *out = load_f16(row);
        break;
      case WeightFormat::bf16:
        *out = bf16_to_float(load<uint16_t>(row));
        break;
      default:
        dequantise_block(format, row, out);
    }
  }
}

}  // namespace pagoda

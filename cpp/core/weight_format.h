// How the numbers of a weight matrix are stored: plain floats or blocks of 32 quantised values with their scale.
// The file readers name formats with it, the backends pack and multiply by it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pagoda {

/// Formats as GGUF defines them. A quantised row is a run of 32-value blocks; value i of a block is
///   q8_0: f16 d, int8 q[32]:              d * q[i]
///   q4_0: f16 d, 16 bytes of nibbles:     d * (n[i] - 8)
///   q4_1: f16 d, f16 m, 16 nibble bytes:  d * n[i] + m
/// where nibble n[i] is the low half of byte i for i < 16 and the high half of byte i - 16 otherwise.
enum class WeightFormat : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1 };

struct WeightFormatInfo {
  const char* name;
  int block_values;    ///< values in one block; 1 for plain floats
  size_t block_bytes;  ///< bytes of one block in a file
};

constexpr WeightFormatInfo weight_format_info(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
      return {"f32", 1, 4};
    case WeightFormat::f16:
      return {"f16", 1, 2};
    case WeightFormat::bf16:
      return {"bf16", 1, 2};
    case WeightFormat::q8_0:
      return {"q8_0", 32, 34};
    case WeightFormat::q4_0:
      return {"q4_0", 32, 18};
    case WeightFormat::q4_1:
      return {"q4_1", 32, 20};
  }
  return {"?", 1, 0};
}

constexpr bool is_quantised(WeightFormat format) { return weight_format_info(format).block_values > 1; }

/// Bytes of one row of `cols` values as stored in a file. `cols` is a multiple of the block.
constexpr size_t weight_row_bytes(WeightFormat format, int64_t cols) {
  const WeightFormatInfo info = weight_format_info(format);
  return static_cast<size_t>(cols / info.block_values) * info.block_bytes;
}

}  // namespace pagoda

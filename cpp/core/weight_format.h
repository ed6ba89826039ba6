// How the numbers of a weight matrix are stored: plain floats or blocks of 32 quantised values with their scale.
// The file readers name formats with it, the backends pack and multiply by it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pagoda {

/// A quantised row is a run of blocks of 32 or 256 values. Those from q8_0 to mxfp4 lie in GGUF files as ggml defines them; the
/// simplest are, for value i of a block,
///   q8_0: f16 d, int8 q[32]:              d * q[i]
///   q4_0: f16 d, 16 bytes of nibbles:     d * (n[i] - 8)
///   q4_1: f16 d, f16 m, 16 nibble bytes:  d * n[i] + m
/// where nibble n[i] is the low half of byte i for i < 16 and the high half of byte i - 16 otherwise; io/dequantise.cc says
/// what the others mean. The last three hold what Hugging Face checkpoints quantise with scales of their own, brought into
/// blocks of 32 by the loader:
///   f8_e4m3: f32 d, 32 bytes:                          d * e4m3(byte[i])
///   int8:    f32 d, int8 q[32]:                        d * q[i]
///   int4:    f32 d, f32 zero, 16 bytes of nibbles:     d * (n[i] - zero); zero is an integer in [0, 16]
enum class WeightFormat : uint8_t {
  f32,
  f16,
  bf16,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,
  f8_e4m3,
  int8,
  int4,
};

constexpr int kNumWeightFormats = 19;

/// Values in a block of every format that has blocks, but for those of 256.
constexpr int kBlockValues = 32;

struct WeightFormatInfo {
  const char* name;
  int block_values;    ///< values in one block; 1 for plain floats
  size_t block_bytes;  ///< bytes of one block as stored
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
    case WeightFormat::q5_0:
      return {"q5_0", 32, 22};
    case WeightFormat::q5_1:
      return {"q5_1", 32, 24};
    case WeightFormat::q2_k:
      return {"q2_k", 256, 84};
    case WeightFormat::q3_k:
      return {"q3_k", 256, 110};
    case WeightFormat::q4_k:
      return {"q4_k", 256, 144};
    case WeightFormat::q5_k:
      return {"q5_k", 256, 176};
    case WeightFormat::q6_k:
      return {"q6_k", 256, 210};
    case WeightFormat::iq4_nl:
      return {"iq4_nl", 32, 18};
    case WeightFormat::iq4_xs:
      return {"iq4_xs", 256, 136};
    case WeightFormat::mxfp4:
      return {"mxfp4", 32, 17};
    case WeightFormat::f8_e4m3:
      return {"f8_e4m3", 32, 36};
    case WeightFormat::int8:
      return {"int8", 32, 36};
    case WeightFormat::int4:
      return {"int4", 32, 24};
  }
  return {"?", 1, 0};
}

constexpr bool is_quantised(WeightFormat format) { return weight_format_info(format).block_values > 1; }

/// Bytes of one row of `cols` values as stored. `cols` is a multiple of the block.
constexpr size_t weight_row_bytes(WeightFormat format, int64_t cols) {
  const WeightFormatInfo info = weight_format_info(format);
  return static_cast<size_t>(cols / info.block_values) * info.block_bytes;
}

}  // namespace pagoda

// Decoders of the formats with blocks of 32 values. Beside those that core/weight_format.h describes (f16 d first, nibble n[i]
// as there):
//   q5_0:   f16 d, uint32 h, 16 nibble bytes:         d * (n[i] + 16 * bit i of h - 16)
//   q5_1:   f16 d, f16 m, uint32 h, 16 nibble bytes:  d * (n[i] + 16 * bit i of h) + m
//   iq4_nl: f16 d, 16 nibble bytes:                   d * kIq4Values[n[i]]
//   mxfp4:  uint8 e, 16 nibble bytes:                 2^(e - 128) * kMxfp4Values[n[i]]
#include <cstdint>

#include "core/weight_format.h"
#include "io/block_decoders.h"
#include "io/code_values.h"

namespace pagoda {
namespace {

/// Calls `write(i, nibble)` for the 32 nibbles of 16 bytes: low halves first, then high halves.
template <class Write>
void each_nibble(const std::byte* nibbles, const Write& write) {
  for (int i = 0; i < kBlockValues / 2; ++i) {
    const auto byte = static_cast<unsigned>(nibbles[i]);
    write(i, static_cast<int>(byte & 15));
    write(i + kBlockValues / 2, static_cast<int>(byte >> 4));
  }
}

/// 16 times bit i of a q5 block's fifth bits.
int fifth_bit(uint32_t bits, int i) { return static_cast<int>(bits >> i & 1) << 4; }

}  // namespace

void decode_q8_0(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  for (int i = 0; i < kBlockValues; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

void decode_q4_0(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  each_nibble(block + 2, [&](int i, int code) { out[i] = scale * static_cast<float>(code - 8); });
}

void decode_q4_1(const std::byte* block, float* out) {
  const float scale = load_f16(block), minimum = load_f16(block + 2);
  each_nibble(block + 4, [&](int i, int code) { out[i] = scale * static_cast<float>(code) + minimum; });
}

void decode_q5_0(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  const auto high = load_bytes<uint32_t>(block + 2);
  each_nibble(block + 6, [&](int i, int code) { out[i] = scale * static_cast<float>((code | fifth_bit(high, i)) - 16); });
}

void decode_q5_1(const std::byte* block, float* out) {
  const float scale = load_f16(block), minimum = load_f16(block + 2);
  const auto high = load_bytes<uint32_t>(block + 4);
  each_nibble(block + 8, [&](int i, int code) { out[i] = scale * static_cast<float>(code | fifth_bit(high, i)) + minimum; });
}

void decode_iq4_nl(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  each_nibble(block + 2, [&](int i, int code) { out[i] = scale * static_cast<float>(kIq4Values[static_cast<size_t>(code)]); });
}

void decode_mxfp4(const std::byte* block, float* out) {
  const float scale = mxfp4_scale(static_cast<uint8_t>(block[0]));
  each_nibble(block + 1,
              [&](int i, int code) { out[i] = scale * static_cast<float>(kMxfp4Values[static_cast<size_t>(code)]); });
}

void decode_f8_e4m3(const std::byte* block, float* out) {
  const auto scale = load_bytes<float>(block);
  for (int i = 0; i < kBlockValues; ++i) out[i] = scale * e4m3_to_float(static_cast<uint8_t>(block[4 + i]));
}

void decode_int8(const std::byte* block, float* out) {
  const auto scale = load_bytes<float>(block);
  for (int i = 0; i < kBlockValues; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(block[4 + i]));
}

void decode_int4(const std::byte* block, float* out) {
  const auto scale = load_bytes<float>(block), zero = load_bytes<float>(block + 4);
  each_nibble(block + 8, [&](int i, int code) { out[i] = scale * (static_cast<float>(code) - zero); });
}

}  // namespace pagoda

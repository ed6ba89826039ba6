// Decoders of the formats with blocks of 256 values, which have f16 scales per block and small integer scales per 16 or 32
// values. With g the group of value i (i / 16 or i / 32) and q[i] its code:
//   q2_k:   uint8 s[16] (low nibble scale, high nibble minimum), 64 bytes of 2-bit codes, f16 d, f16 m:
//           (d * scale[g]) * q[i] - (m * minimum[g]), groups of 16
//   q3_k:   32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, f16 d:
//           (d * (scale[g] - 32)) * (q[i] - (third bit ? 0 : 4)), groups of 16
//   q4_k:   f16 d, f16 m, 12 bytes of 6-bit scales and minimums, 128 bytes of nibbles:
//           (d * scale[g]) * q[i] - (m * minimum[g]), groups of 32
//   q5_k:   as q4_k with 32 bytes of fifth bits before the nibbles
//   q6_k:   128 bytes of nibbles, 64 bytes of upper 2 bits, int8 scale[16], f16 d:
//           (d * scale[g]) * (q[i] - 32), groups of 16
//   iq4_xs: f16 d, uint16 upper 2 bits of scales, 4 bytes of lower nibbles of scales, 128 bytes of nibbles:
//           (d * (scale[g] - 32)) * kIq4Values[q[i]], groups of 32
// How the codes are interleaved stands beside each loop.
#include <cstdint>

#include "io/block_decoders.h"
#include "io/code_values.h"

namespace pagoda {
namespace {

constexpr int kSuperBlockValues = 256;

unsigned byte_at(const std::byte* bytes, int i) { return static_cast<unsigned>(bytes[i]); }

/// Code i of 64 bytes of 2-bit codes: each run of 32 bytes holds four runs of 32 values, the first in the lowest bits.
int two_bits(const std::byte* codes, int i) {
  return static_cast<int>(byte_at(codes, i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 3);
}

/// Nibble i where each run of `Run` bytes holds `Run` values in its low halves and the next `Run` in its high halves.
template <int Run>
int nibble(const std::byte* codes, int i) {
  return static_cast<int>(byte_at(codes, i / (2 * Run) * Run + i % Run) >> (i / Run % 2 * 4) & 15);
}

/// Bit i of 32 bytes that hold eight runs of 32 values, the first in the lowest bits.
int one_bit(const std::byte* bits, int i) { return static_cast<int>(byte_at(bits, i % 32) >> (i / 32) & 1); }

struct ScaleAndMinimum {
  int scale[8];
  int minimum[8];
};

/// The 6-bit scales and minimums of q4_k and q5_k: bytes 0-3 hold scales 0-3 and bytes 4-7 minimums 0-3 in their low 6 bits;
/// their top 2 bits are the top bits of the other four, whose low nibbles stand in bytes 8-11, scales in the low halves.
ScaleAndMinimum unpack_scales(const std::byte* packed) {
  ScaleAndMinimum out{};
  for (int i = 0; i < 4; ++i) {
    const unsigned scale = byte_at(packed, i), minimum = byte_at(packed, 4 + i), rest = byte_at(packed, 8 + i);
    out.scale[i] = static_cast<int>(scale & 63);
    out.minimum[i] = static_cast<int>(minimum & 63);
    out.scale[4 + i] = static_cast<int>((rest & 15) | (scale >> 6) << 4);
    out.minimum[4 + i] = static_cast<int>(rest >> 4 | (minimum >> 6) << 4);
  }
  return out;
}

/// q4_k and q5_k: `code(i)` gives value i's code.
template <class Code>
void decode_scaled_minimum(const std::byte* block, const Code& code, float* out) {
  const float d = load_f16(block), m = load_f16(block + 2);
  const ScaleAndMinimum groups = unpack_scales(block + 4);
  for (int g = 0; g < 8; ++g) {
    const float scale = d * static_cast<float>(groups.scale[g]), minimum = m * static_cast<float>(groups.minimum[g]);
    for (int i = g * 32; i < g * 32 + 32; ++i) out[i] = scale * static_cast<float>(code(i)) - minimum;
  }
}

}  // namespace

void decode_q2_k(const std::byte* block, float* out) {
  const std::byte* codes = block + 16;
  const float d = load_f16(block + 80), m = load_f16(block + 82);
  for (int g = 0; g < 16; ++g) {
    const float scale = d * static_cast<float>(byte_at(block, g) & 15),
                minimum = m * static_cast<float>(byte_at(block, g) >> 4);
    for (int i = g * 16; i < g * 16 + 16; ++i) out[i] = scale * static_cast<float>(two_bits(codes, i)) - minimum;
  }
}

void decode_q3_k(const std::byte* block, float* out) {
  const std::byte* codes = block + 32;
  const std::byte* scales = block + 96;
  const float d = load_f16(block + 108);
  for (int g = 0; g < 16; ++g) {
    // Low nibbles: 8 bytes, scales 0-7 in the low halves. Upper 2 bits: 4 bytes, scales 0-3 in the lowest bits.
    const unsigned low = byte_at(scales, g % 8) >> (g / 8 * 4) & 15, high = byte_at(scales, 8 + g % 4) >> (g / 4 * 2) & 3;
    const float scale = d * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    for (int i = g * 16; i < g * 16 + 16; ++i) {
      const int offset = one_bit(block, i) ? 0 : 4;
      out[i] = scale * static_cast<float>(two_bits(codes, i) - offset);
    }
  }
}

void decode_q4_k(const std::byte* block, float* out) {
  const std::byte* codes = block + 16;
  decode_scaled_minimum(block, [&](int i) { return nibble<32>(codes, i); }, out);
}

void decode_q5_k(const std::byte* block, float* out) {
  const std::byte* high = block + 16;
  const std::byte* codes = block + 48;
  decode_scaled_minimum(block, [&](int i) { return nibble<32>(codes, i) | one_bit(high, i) << 4; }, out);
}

void decode_q6_k(const std::byte* block, float* out) {
  const std::byte* high = block + 128;
  const std::byte* scales = block + 192;
  const float d = load_f16(block + 208);
  for (int i = 0; i < kSuperBlockValues; ++i) {
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
    out[i] = scale * static_cast<float>((nibble<64>(block, i) | two_bits(high, i) << 4) - 32);
  }
}

void decode_iq4_xs(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const auto high = static_cast<unsigned>(load_bytes<uint16_t>(block + 2));
  const std::byte* codes = block + 8;
  for (int g = 0; g < 8; ++g) {
    const unsigned low = byte_at(block + 4, g / 2) >> (g % 2 * 4) & 15;
    const float scale = d * static_cast<float>(static_cast<int>(low | (high >> 2 * g & 3) << 4) - 32);
    for (int i = g * 32; i < g * 32 + 32; ++i) {
      out[i] = scale * static_cast<float>(kIq4Values[static_cast<size_t>(nibble<16>(codes, i))]);
    }
  }
}

}  // namespace pagoda

// Stored blocks taken apart for packing: the codes of 32 values, four to a word, and their scales as the panel's fields hold
// them (pack_layout.h). io/block_decoders_*.cc say how each format stores them. Used by pack_panel.cc only.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend/cpu/pack_layout.h"
#include "core/check.h"

namespace pagoda::cpu {

/// Codes of values 4t to 4t + 3 in word t, the first in the lowest byte, and the fields' bytes one after the other.
struct StoredBlock {
  uint32_t quads[8];
  uint8_t scales[5];
};

inline uint32_t stored_word(const std::byte* from, int i) {
  uint32_t word;
  std::memcpy(&word, from + 4 * i, sizeof word);
  return word;
}

/// 16 bytes of nibbles: values 0-15 in the low halves.
inline void read_nibbles(const std::byte* from, StoredBlock& block) {
  for (int t = 0; t < 8; ++t) block.quads[t] = stored_word(from, t % 4) >> (t / 4 * 4) & 0x0f0f0f0fu;
}

/// 32 bytes with more values than these: this block's codes of kBits from bit `shift` on, put at bit kTo of the block's codes.
template <int kBits, int kTo>
inline void read_bits(const std::byte* from, int shift, StoredBlock& block) {
  constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
  for (int t = 0; t < 8; ++t) {
    const uint32_t codes = (stored_word(from, t) >> shift & kMask) << kTo;
    block.quads[t] = kTo == 0 ? codes : block.quads[t] | codes;
  }
}

/// 32 bytes of int8, which become unsigned.
inline void read_bytes(const std::byte* from, uint32_t bias, StoredBlock& block) {
  for (int t = 0; t < 8; ++t) block.quads[t] = stored_word(from, t) ^ bias;
}

/// One word of fifth bits of 32 values.
inline void read_fifth_bits(const std::byte* from, StoredBlock& block) {
  const uint32_t bits = stored_word(from, 0);
  for (int t = 0; t < 8; ++t) {
    const uint32_t four = bits >> 4 * t;
    block.quads[t] |= (four & 1) << 4 | (four & 2) << 11 | (four & 4) << 18 | (four & 8) << 25;
  }
}

/// The 6-bit scale and minimum of block b of q4_k and q5_k.
inline void read_k_scales(const std::byte* from, int b, StoredBlock& block) {
  const auto byte = [&](int i) { return std::to_integer<uint32_t>(from[i]); };
  if (b < 4) {
    block.scales[0] = static_cast<uint8_t>(byte(b) & 63);
    block.scales[1] = static_cast<uint8_t>(byte(b + 4) & 63);
  } else {
    block.scales[0] = static_cast<uint8_t>((byte(b + 4) & 15) | byte(b - 4) >> 6 << 4);
    block.scales[1] = static_cast<uint8_t>(byte(b + 4) >> 4 | byte(b) >> 6 << 4);
  }
}

/// Scale `group` of the 16 of q3_k, as int8.
inline uint8_t q3_k_scale(const std::byte* from, int group) {
  const uint32_t low = std::to_integer<uint32_t>(from[group % 8]) >> (group / 8 * 4) & 15;
  const uint32_t high = std::to_integer<uint32_t>(from[8 + group % 4]) >> (group / 4 * 2) & 3;
  return static_cast<uint8_t>((low | high << 4) - 32);
}

/// Scale of block b of iq4_xs, as int8.
inline uint8_t iq4_xs_scale(const std::byte* from, int b) {
  const uint32_t low = std::to_integer<uint32_t>(from[4 + b / 2]) >> (b % 2 * 4) & 15;
  const uint32_t high = stored_word(from, 0) >> (16 + 2 * b) & 3;
  return static_cast<uint8_t>((low | high << 4) - 32);
}

/// The zero of an int4 block, exactly as a byte.
inline uint8_t int4_zero(const std::byte* from) {
  float zero;
  std::memcpy(&zero, from, sizeof zero);
  require(zero >= 0 && zero <= 16 && zero == std::floor(zero), "the zero of an int4 weight must be an integer in [0, 16], got ",
          zero);
  return static_cast<uint8_t>(zero);
}

/// Where the outer fields of a format of two levels lie in its stored blocks.
constexpr int stored_outer_offset(WeightFormat format) {
  switch (format) {
    case WeightFormat::q2_k:
      return 80;
    case WeightFormat::q3_k:
      return 108;
    case WeightFormat::q6_k:
      return 208;
    default:
      return 0;
  }
}

/// Block b of 32 values of the stored block at `from`.
template <WeightFormat kFormat>
[[gnu::always_inline]] inline StoredBlock read_stored(const std::byte* from, int b) {
  StoredBlock block{};
  const auto copy_scales = [&](size_t bytes) { std::memcpy(block.scales, from, bytes); };
  if constexpr (kFormat == WeightFormat::q8_0) {
    copy_scales(2), read_bytes(from + 2, 0x80808080u, block);
  } else if constexpr (kFormat == WeightFormat::int8) {
    copy_scales(4), read_bytes(from + 4, 0x80808080u, block);
  } else if constexpr (kFormat == WeightFormat::f8_e4m3) {
    copy_scales(4), read_bytes(from + 4, 0, block);
  } else if constexpr (kFormat == WeightFormat::q4_0 || kFormat == WeightFormat::iq4_nl) {
    copy_scales(2), read_nibbles(from + 2, block);
  } else if constexpr (kFormat == WeightFormat::q4_1) {
    copy_scales(4), read_nibbles(from + 4, block);
  } else if constexpr (kFormat == WeightFormat::mxfp4) {
    copy_scales(1), read_nibbles(from + 1, block);
  } else if constexpr (kFormat == WeightFormat::int4) {
    copy_scales(4), read_nibbles(from + 8, block);
    block.scales[4] = int4_zero(from + 4);
  } else if constexpr (kFormat == WeightFormat::q5_0) {
    copy_scales(2), read_nibbles(from + 6, block), read_fifth_bits(from + 2, block);
  } else if constexpr (kFormat == WeightFormat::q5_1) {
    copy_scales(4), read_nibbles(from + 8, block), read_fifth_bits(from + 4, block);
  } else if constexpr (kFormat == WeightFormat::q2_k) {
    read_bits<2, 0>(from + 16 + b / 4 * 32, b % 4 * 2, block);
    std::memcpy(block.scales, from + 2 * b, 2);
  } else if constexpr (kFormat == WeightFormat::q3_k) {
    read_bits<2, 0>(from + 32 + b / 4 * 32, b % 4 * 2, block);
    read_bits<1, 2>(from, b, block);
    for (int g = 0; g < 2; ++g) block.scales[g] = q3_k_scale(from + 96, 2 * b + g);
  } else if constexpr (kFormat == WeightFormat::q4_k) {
    read_bits<4, 0>(from + 16 + b / 2 * 32, b % 2 * 4, block);
    read_k_scales(from + 4, b, block);
  } else if constexpr (kFormat == WeightFormat::q5_k) {
    read_bits<4, 0>(from + 48 + b / 2 * 32, b % 2 * 4, block);
    read_bits<1, 4>(from + 16, b, block);
    read_k_scales(from + 4, b, block);
  } else if constexpr (kFormat == WeightFormat::q6_k) {
    read_bits<4, 0>(from + b / 4 * 64 + b % 2 * 32, b % 4 / 2 * 4, block);
    read_bits<2, 4>(from + 128 + b / 4 * 32, b % 4 * 2, block);
    std::memcpy(block.scales, from + 192 + 2 * b, 2);
  } else {
    static_assert(kFormat == WeightFormat::iq4_xs);
    read_nibbles(from + 8 + 16 * b, block);
    block.scales[0] = iq4_xs_scale(from, b);
  }
  return block;
}

}  // namespace pagoda::cpu

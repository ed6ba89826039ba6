// Packing: byte moves and, for the formats whose stored order differs, some shifts per word. The page faults of the target cost
// more than the moves do.
#include "backend/cpu/pack_panel.h"

#include <cstring>

#include "backend/cpu/pack_stored.h"

namespace pagoda::cpu {
namespace {

constexpr size_t kAlignment = 64;

/// Elements of `kBytes` each: [K][16].
template <size_t kBytes>
void pack_floats(const PanelRows& rows, int64_t cols, std::byte* out) {
  for (int64_t k = 0; k < cols; ++k) {
    for (int64_t c = 0; c < kPanelRows; ++c) {
      if (rows.row[c])
        std::memcpy(out + static_cast<size_t>(k * kPanelRows + c) * kBytes, rows.row[c] + static_cast<size_t>(k) * kBytes,
                    kBytes);
    }
  }
}

/// Pairs of values: [ceil(K/2)][16][2], the odd value past K is zero.
void pack_bf16(const PanelRows& rows, int64_t cols, std::byte* out) {
  for (int64_t k = 0; k < cols; k += 2) {
    const size_t bytes = k + 1 < cols ? 4 : 2;
    for (int64_t c = 0; c < kPanelRows; ++c) {
      if (rows.row[c]) std::memcpy(out + (k / 2 * kPanelRows + c) * 4, rows.row[c] + k * 2, bytes);
    }
  }
}

/// Puts row c's codes into the planes of a block.
template <WeightFormat kFormat>
[[gnu::always_inline]] inline void put_codes(const StoredBlock& block, int64_t c, std::byte* codes) {
  constexpr PanelLayout kLayout = panel_layout(kFormat);
  if constexpr (kFormat == WeightFormat::f8_e4m3) {
    for (int t = 0; t < 8; ++t) {
      std::memcpy(codes + 64 * t + 2 * c, &block.quads[t], 2);
      std::memcpy(codes + 64 * t + 32 + 2 * c, reinterpret_cast<const std::byte*>(&block.quads[t]) + 2, 2);
    }
    return;
  }
  const auto put_plane = [&](int bits, int from_bit, std::byte* plane) {
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    for (int v = 0; v < bits; ++v) {
      uint32_t word = 0;
      for (int t = v; t < 8; t += bits) word |= (block.quads[t] >> from_bit & mask) << (t - v);
      std::memcpy(plane + (v * kPanelRows + c) * 4, &word, 4);
    }
  };
  put_plane(kLayout.low_bits, 0, codes);
  if constexpr (kLayout.high_bits > 0) put_plane(kLayout.high_bits, kLayout.low_bits, codes + 64 * kLayout.low_bits);
}

/// Puts row c's numbers, one after the other at `numbers`, into two fields.
[[gnu::always_inline]] inline void put_fields(const uint8_t (&bytes)[2], const void* numbers, int64_t c, std::byte* fields) {
  const std::byte* from = static_cast<const std::byte*>(numbers);
  std::memcpy(fields + c * bytes[0], from, bytes[0]);
  std::memcpy(fields + kPanelRows * bytes[0] + c * bytes[1], from + bytes[0], bytes[1]);
}

template <WeightFormat kFormat>
void pack_blocks(const PanelRows& rows, int64_t cols, std::byte* out) {
  constexpr PanelLayout kLayout = panel_layout(kFormat);
  constexpr WeightFormatInfo kInfo = weight_format_info(kFormat);
  for (int64_t i = 0; i < cols / kInfo.block_values; ++i) {
    for (int64_t c = 0; c < kPanelRows; ++c) {
      if (!rows.row[c]) continue;
      const std::byte* stored = rows.row[c] + static_cast<size_t>(i) * kInfo.block_bytes;
      put_fields(kLayout.outer_fields, stored + stored_outer_offset(kFormat), c, out);
      for (int b = 0; b < kLayout.blocks; ++b) {
        std::byte* block = out + kLayout.outer_bytes() + b * kLayout.block_bytes();
        const StoredBlock read = read_stored<kFormat>(stored, b);
        put_codes<kFormat>(read, c, block);
        put_fields(kLayout.fields, read.scales, c, block + kLayout.code_bytes());
      }
    }
    out += kLayout.outer_bytes() + kLayout.blocks * kLayout.block_bytes();
  }
}

}  // namespace

size_t panel_bytes(WeightFormat format, int64_t cols) {
  const size_t k = static_cast<size_t>(cols);
  size_t bytes = 0;
  switch (format) {
    case WeightFormat::f32:
      bytes = k * 64;
      break;
    case WeightFormat::f16:
      bytes = k * 32;
      break;
    case WeightFormat::bf16:
      bytes = (k + 1) / 2 * 64;
      break;
    default:
      bytes = panel_layout(format).bytes(cols);
  }
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void pack_panel(WeightFormat format, const PanelRows& rows, int64_t cols, std::byte* panel) {
  const size_t bytes = panel_bytes(format, cols);
  if (!rows.row[kPanelRows - 1]) std::memset(panel, 0, bytes);
  std::memset(panel + bytes - kAlignment, 0, kAlignment);  // the padding, and at most one line of values
  switch (format) {
    case WeightFormat::f32:
      return pack_floats<4>(rows, cols, panel);
    case WeightFormat::f16:
      return pack_floats<2>(rows, cols, panel);
    case WeightFormat::bf16:
      return pack_bf16(rows, cols, panel);
    case WeightFormat::q8_0:
      return pack_blocks<WeightFormat::q8_0>(rows, cols, panel);
    case WeightFormat::q4_0:
      return pack_blocks<WeightFormat::q4_0>(rows, cols, panel);
    case WeightFormat::q4_1:
      return pack_blocks<WeightFormat::q4_1>(rows, cols, panel);
    case WeightFormat::q5_0:
      return pack_blocks<WeightFormat::q5_0>(rows, cols, panel);
    case WeightFormat::q5_1:
      return pack_blocks<WeightFormat::q5_1>(rows, cols, panel);
    case WeightFormat::q2_k:
      return pack_blocks<WeightFormat::q2_k>(rows, cols, panel);
    case WeightFormat::q3_k:
      return pack_blocks<WeightFormat::q3_k>(rows, cols, panel);
    case WeightFormat::q4_k:
      return pack_blocks<WeightFormat::q4_k>(rows, cols, panel);
    case WeightFormat::q5_k:
      return pack_blocks<WeightFormat::q5_k>(rows, cols, panel);
    case WeightFormat::q6_k:
      return pack_blocks<WeightFormat::q6_k>(rows, cols, panel);
    case WeightFormat::iq4_nl:
      return pack_blocks<WeightFormat::iq4_nl>(rows, cols, panel);
    case WeightFormat::iq4_xs:
      return pack_blocks<WeightFormat::iq4_xs>(rows, cols, panel);
    case WeightFormat::mxfp4:
      return pack_blocks<WeightFormat::mxfp4>(rows, cols, panel);
    case WeightFormat::f8_e4m3:
      return pack_blocks<WeightFormat::f8_e4m3>(rows, cols, panel);
    case WeightFormat::int8:
      return pack_blocks<WeightFormat::int8>(rows, cols, panel);
    case WeightFormat::int4:
      return pack_blocks<WeightFormat::int4>(rows, cols, panel);
  }
}

}  // namespace pagoda::cpu

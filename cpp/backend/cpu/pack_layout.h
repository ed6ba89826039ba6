// How the panels of each quantised format are laid out, as one table: packing, unpacking and the product kernels follow it.
//
// A quantised row is cut into blocks of 32 values. Of a block the panel holds the codes of its 16 rows and then their scales; a
// format with scales of two levels puts those of 256 values before their 8 blocks. So a product reads one stream: a second
// one costs decode half of the memory's speed.
//
// Codes of b bits are stored as one or two planes (`low_bits` and `high_bits`, b = low + high), each w bits wide and
// [w][16][4] bytes: value 4t + i of row c stands in byte (t % w, c, i) from bit t / w * w on. So 8-bit codes lie in order and
// 4-bit codes have values 0-15 in their low halves. f8_e4m3 alone, multiplied as floats, has [16][16][2] bytes: value 2p + i
// of row c is byte (p, c, i).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace pagoda::cpu {

constexpr int64_t kPanelRows = 16;
constexpr int kBlockCols = 32;

/// What a code stands for.
enum class CodeKind : uint8_t {
  count,  ///< code - bias
  iq4,    ///< kIq4Values[code]
  mxfp4,  ///< kMxfp4Values[code]
  e4m3,   ///< e4m3_to_float(code)
};

/// What the scales are. Each field is an array over the 16 rows; v is a code's meaning.
enum class ScaleKind : uint8_t {
  half,         ///< block: f16 d                                                     d * v
  half_min,     ///< block: f16 d, f16 m                                              d * v + m
  single,       ///< block: f32 d                                                     d * v
  single_zero,  ///< block: f32 d, u8 zero                                            d * (v - zero)
  exponent,     ///< block: u8 e                                                      2^(e - 128) * v
  groups,       ///< 256 values: f16 d;         block: i8 scale of each group         (d * scale) * v
  groups_min,   ///< 256 values: f16 d, f16 m;  block: u8 scale, u8 min               (d * scale) * v - (m * min)
  nibble_min,   ///< 256 values: f16 d, f16 m;  block: u8 scale | min << 4 per group  (d * scale) * v - (m * min)
};

struct PanelLayout {
  uint8_t low_bits = 0;
  uint8_t high_bits = 0;
  uint8_t bias = 0;
  CodeKind codes = CodeKind::count;
  ScaleKind scales = ScaleKind::half;
  uint8_t groups = 1;            ///< groups of a block with scales of their own: the whole block, or its two halves
  uint8_t blocks = 1;            ///< blocks that share the outer fields
  uint8_t fields[2] = {};        ///< bytes of one row's number in each field of a block
  uint8_t outer_fields[2] = {};  ///< and in each field before `blocks` blocks

  constexpr int code_bytes() const { return 64 * (low_bits + high_bits); }
  constexpr int block_bytes() const { return code_bytes() + 16 * (fields[0] + fields[1]); }
  constexpr int outer_bytes() const { return 16 * (outer_fields[0] + outer_fields[1]); }
  /// Bytes that `cols` columns of a panel take.
  constexpr size_t bytes(int64_t cols) const {
    return static_cast<size_t>(cols / kBlockCols / blocks) * static_cast<size_t>(outer_bytes() + blocks * block_bytes());
  }
};

/// The layout of a quantised format.
constexpr PanelLayout panel_layout(WeightFormat format) {
  switch (format) {
    case WeightFormat::q8_0:
      return {8, 0, 128, CodeKind::count, ScaleKind::half, 1, 1, {2}};
    case WeightFormat::q4_0:
      return {4, 0, 8, CodeKind::count, ScaleKind::half, 1, 1, {2}};
    case WeightFormat::q4_1:
      return {4, 0, 0, CodeKind::count, ScaleKind::half_min, 1, 1, {2, 2}};
    case WeightFormat::q5_0:
      return {4, 1, 16, CodeKind::count, ScaleKind::half, 1, 1, {2}};
    case WeightFormat::q5_1:
      return {4, 1, 0, CodeKind::count, ScaleKind::half_min, 1, 1, {2, 2}};
    case WeightFormat::q2_k:
      return {2, 0, 0, CodeKind::count, ScaleKind::nibble_min, 2, 8, {1, 1}, {2, 2}};
    case WeightFormat::q3_k:
      return {2, 1, 4, CodeKind::count, ScaleKind::groups, 2, 8, {1, 1}, {2}};
    case WeightFormat::q4_k:
      return {4, 0, 0, CodeKind::count, ScaleKind::groups_min, 1, 8, {1, 1}, {2, 2}};
    case WeightFormat::q5_k:
      return {4, 1, 0, CodeKind::count, ScaleKind::groups_min, 1, 8, {1, 1}, {2, 2}};
    case WeightFormat::q6_k:
      return {4, 2, 32, CodeKind::count, ScaleKind::groups, 2, 8, {1, 1}, {2}};
    case WeightFormat::iq4_nl:
      return {4, 0, 128, CodeKind::iq4, ScaleKind::half, 1, 1, {2}};
    case WeightFormat::iq4_xs:
      return {4, 0, 128, CodeKind::iq4, ScaleKind::groups, 1, 8, {1}, {2}};
    case WeightFormat::mxfp4:
      return {4, 0, 12, CodeKind::mxfp4, ScaleKind::exponent, 1, 1, {1}};
    case WeightFormat::f8_e4m3:
      return {8, 0, 0, CodeKind::e4m3, ScaleKind::single, 1, 1, {4}};
    case WeightFormat::int8:
      return {8, 0, 128, CodeKind::count, ScaleKind::single, 1, 1, {4}};
    case WeightFormat::int4:
      return {4, 0, 0, CodeKind::count, ScaleKind::single_zero, 1, 1, {4, 1}};
    case WeightFormat::f32:
    case WeightFormat::f16:
    case WeightFormat::bf16:
      break;
  }
  return {};
}

}  // namespace pagoda::cpu

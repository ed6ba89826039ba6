// Rows read back from packed panels, for the embedding look-up and the tests. The float operations and their order are those of
// io/block_decoders_*.cc, so that the bits are the same.
#include <cstring>

#include "backend/cpu/pack_panel.h"
#include "core/dtype.h"
#include "io/code_values.h"

namespace pagoda::cpu {
namespace {

template <class T>
T number(const std::byte* field, int64_t i) {
  T value;
  std::memcpy(&value, field + i * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}
float half(const std::byte* field, int64_t i) { return f16_to_float(number<uint16_t>(field, i)); }

/// Bits of value i of row c in a plane of `bits` bits.
unsigned plane_bits(const std::byte* plane, int bits, int64_t c, int i) {
  const int quad = i / 4;
  const auto byte = std::to_integer<unsigned>(plane[(quad % bits * kPanelRows + c) * 4 + i % 4]);
  return byte >> (quad / bits * bits) & ((1u << bits) - 1u);
}

/// The code of value i of row c, with the meaning of its kind.
float code_value(const PanelLayout& layout, const std::byte* codes, int64_t c, int i) {
  if (layout.codes == CodeKind::e4m3) return e4m3_to_float(static_cast<uint8_t>(codes[i / 2 * 32 + c * 2 + i % 2]));
  unsigned code = plane_bits(codes, layout.low_bits, c, i);
  if (layout.high_bits) code |= plane_bits(codes + 64 * layout.low_bits, layout.high_bits, c, i) << layout.low_bits;
  switch (layout.codes) {
    case CodeKind::iq4:
      return static_cast<float>(kIq4Values[code]);
    case CodeKind::mxfp4:
      return static_cast<float>(kMxfp4Values[code]);
    default:
      return static_cast<float>(static_cast<int>(code) - layout.bias);
  }
}

/// The scales of row c for one group of a block: value = scale * (v - zero) + min.
struct Scales {
  float scale = 0, min = 0, zero = 0;
  bool has_min = false;
};

/// `outer` points to the fields of 256 values, `block` to those of the block.
Scales scales_of(const PanelLayout& layout, const std::byte* outer, const std::byte* block, int64_t c, int group) {
  const std::byte* second = block + kPanelRows * layout.fields[0];
  const std::byte* field = group == 0 ? block : second;
  switch (layout.scales) {
    case ScaleKind::half:
      return {half(block, c)};
    case ScaleKind::half_min:
      return {half(block, c), half(second, c), 0, true};
    case ScaleKind::single:
      return {number<float>(block, c)};
    case ScaleKind::single_zero:
      return {number<float>(block, c), 0, static_cast<float>(number<uint8_t>(second, c))};
    case ScaleKind::exponent:
      return {mxfp4_scale(number<uint8_t>(block, c))};
    case ScaleKind::groups:
      return {half(outer, c) * static_cast<float>(number<int8_t>(field, c))};
    case ScaleKind::groups_min:
      return {half(outer, c) * static_cast<float>(number<uint8_t>(block, c)),
              -(half(outer + 32, c) * static_cast<float>(number<uint8_t>(second, c))), 0, true};
    case ScaleKind::nibble_min: {
      const uint8_t both = number<uint8_t>(field, c);
      return {half(outer, c) * static_cast<float>(both & 15), -(half(outer + 32, c) * static_cast<float>(both >> 4)), 0, true};
    }
  }
  return {};
}

void unpack_blocks(const PanelLayout& layout, const std::byte* panel, int64_t c, int64_t cols, float* out) {
  const int group_cols = kBlockCols / layout.groups;
  for (int64_t left = cols / kBlockCols / layout.blocks; left > 0; --left) {
    const std::byte* outer = panel;
    panel += layout.outer_bytes();
    for (int b = 0; b < layout.blocks; ++b, panel += layout.block_bytes(), out += kBlockCols) {
      for (int group = 0; group < layout.groups; ++group) {
        const Scales s = scales_of(layout, outer, panel + layout.code_bytes(), c, group);
        for (int i = group * group_cols; i < (group + 1) * group_cols; ++i) {
          const float product = s.scale * (code_value(layout, panel, c, i) - s.zero);
          out[i] = s.has_min ? product + s.min : product;
        }
      }
    }
  }
}

}  // namespace

void unpack_panel_row(WeightFormat format, const std::byte* panel, int64_t row, int64_t cols, float* out) {
  switch (format) {
    case WeightFormat::f32:
      for (int64_t k = 0; k < cols; ++k) out[k] = number<float>(panel, k * kPanelRows + row);
      return;
    case WeightFormat::f16:
      for (int64_t k = 0; k < cols; ++k) out[k] = half(panel, k * kPanelRows + row);
      return;
    case WeightFormat::bf16:
      for (int64_t k = 0; k < cols; ++k) {
        out[k] = bf16_to_float(number<uint16_t>(panel, (k / 2 * kPanelRows + row) * 2 + k % 2));
      }
      return;
    default:
      return unpack_blocks(panel_layout(format), panel, row, cols, out);
  }
}

}  // namespace pagoda::cpu

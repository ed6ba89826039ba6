// Packing and unpacking of rows, one panel per task. Plain byte moves: the page faults of the target cost more than they do.
#include "backend/cpu/pack.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/dtype.h"

namespace pagoda::cpu {
namespace {

constexpr size_t kAlignment = PackMemory::kAlignment;
constexpr int64_t kBlockValues = 32;

/// The stored rows of one panel; null past the end of the part.
struct PanelRows {
  const std::byte* row[kPanelRows];
};

PanelRows panel_rows(const WeightPart& part, int64_t panel) {
  const size_t row_bytes = weight_row_bytes(part.format, part.cols);
  PanelRows rows{};
  for (int64_t c = 0; c < kPanelRows; ++c) {
    const int64_t i = panel * kPanelRows + c;
    if (i >= part.rows) break;
    const int64_t stored = part.row_order.empty() ? i : part.row_order[static_cast<size_t>(i)];
    rows.row[c] = part.data + static_cast<size_t>(stored) * row_bytes;
  }
  return rows;
}

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

void pack_bf16(const PanelRows& rows, int64_t cols, std::byte* out) {
  for (int64_t k = 0; k < cols; k += 2) {
    const size_t bytes = k + 1 < cols ? 4 : 2;
    for (int64_t c = 0; c < kPanelRows; ++c) {
      if (rows.row[c]) std::memcpy(out + (k / 2 * kPanelRows + c) * 4, rows.row[c] + k * 2, bytes);
    }
  }
}

/// Blocks of `kQuads` words of quantised bytes, stored after `kHeader` f16 numbers (scale, minimum) and packed before them.
template <int64_t kHeader, int64_t kQuads>
void pack_blocks(const PanelRows& rows, int64_t cols, uint32_t bias, std::byte* out) {
  constexpr int64_t kStoredBytes = 2 * kHeader + 4 * kQuads;
  for (int64_t b = 0; b < cols / kBlockValues; ++b, out += kPanelRows * kStoredBytes) {
    for (int64_t c = 0; c < kPanelRows; ++c) {
      if (!rows.row[c]) continue;
      const std::byte* block = rows.row[c] + b * kStoredBytes;
      for (int64_t j = 0; j < kQuads; ++j) {
        uint32_t quad;
        std::memcpy(&quad, block + 2 * kHeader + 4 * j, 4);
        quad ^= bias;
        std::memcpy(out + (j * kPanelRows + c) * 4, &quad, 4);
      }
      std::byte* scales = out + kQuads * kPanelRows * 4;
      for (int64_t h = 0; h < kHeader; ++h) std::memcpy(scales + (h * kPanelRows + c) * 2, block + 2 * h, 2);
    }
  }
}

void pack_panel(const WeightPart& part, int64_t panel, std::byte* out) {
  const PanelRows rows = panel_rows(part, panel);
  const size_t bytes = panel_bytes(part.format, part.cols);
  if (!rows.row[kPanelRows - 1]) std::memset(out, 0, bytes);
  std::memset(out + bytes - kAlignment, 0, kAlignment);  // the padding, and at most one line of values
  switch (part.format) {
    case WeightFormat::f32:
      return pack_floats<4>(rows, part.cols, out);
    case WeightFormat::f16:
      return pack_floats<2>(rows, part.cols, out);
    case WeightFormat::bf16:
      return pack_bf16(rows, part.cols, out);
    case WeightFormat::q8_0:
      return pack_blocks<1, 8>(rows, part.cols, 0x80808080u, out);
    case WeightFormat::q4_0:
      return pack_blocks<1, 4>(rows, part.cols, 0, out);
    case WeightFormat::q4_1:
      return pack_blocks<2, 4>(rows, part.cols, 0, out);
    default:
      throw InternalError(str("a part in ", weight_format_info(part.format).name, " cannot be packed"));
  }
}

void check_parts(std::span<const WeightPart> parts) {
  require(!parts.empty(), "a weight needs at least one part");
  for (const WeightPart& part : parts) {
    const WeightFormatInfo info = weight_format_info(part.format);
    require(part.rows > 0 && part.cols > 0, "a weight part must have rows and columns, got [", part.rows, ", ", part.cols, "]");
    require(part.cols == parts[0].cols, "stacked weight parts must have equal columns, got ", parts[0].cols, " and ",
            part.cols);
    require(part.cols % info.block_values == 0, "the columns of a ", info.name, " weight must be a multiple of ",
            info.block_values, ", got ", part.cols);
    require(part.row_order.empty() || std::cmp_equal(part.row_order.size(), part.rows),
            "row_order must have one entry per row, got ", part.row_order.size(), " for ", part.rows, " rows");
    for (const int32_t row : part.row_order) require(row >= 0, "row_order must name stored rows, got ", row);
    ensure(part.data != nullptr, "a weight part without data cannot be packed");
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
    case WeightFormat::q8_0:
      bytes = k / 32 * (512 + 32);
      break;
    case WeightFormat::q4_0:
      bytes = k / 32 * (256 + 32);
      break;
    case WeightFormat::q4_1:
      bytes = k / 32 * (256 + 64);
      break;
    default:
      throw InternalError(str("a part in ", weight_format_info(format).name, " cannot be packed"));
  }
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

size_t packed_bytes(std::span<const WeightPart> parts) {
  size_t bytes = 0;
  for (const WeightPart& part : parts) {
    bytes += static_cast<size_t>((part.rows + kPanelRows - 1) / kPanelRows) * panel_bytes(part.format, part.cols);
  }
  return bytes;
}

Weight pack_weight(std::span<const WeightPart> parts, ThreadPool& pool, PackMemory& memory) {
  check_parts(parts);
  Weight weight{0, parts[0].cols, packed_bytes(parts), {}, nullptr};
  auto packed = std::make_shared<PackedWeight>();
  packed->bytes = memory.allocate(weight.bytes);
  std::byte* next = packed->bytes.get();
  for (const WeightPart& part : parts) {
    const size_t bytes = panel_bytes(part.format, part.cols);
    const PackedPart& added =
        packed->parts.emplace_back(PackedPart{part.format, weight.rows, part.rows, packed->num_panels, bytes, next});
    std::byte* panels = next;
    pool.run(added.num_panels(),
             [&](int64_t panel, int) { pack_panel(part, panel, panels + static_cast<size_t>(panel) * bytes); });
    next += static_cast<size_t>(added.num_panels()) * bytes;
    packed->num_panels += added.num_panels();
    weight.rows += part.rows;
    weight.part_formats.push_back(part.format);
  }
  weight.packed = std::move(packed);
  return weight;
}

void unpack_row(const PackedPart& part, int64_t row, int64_t cols, float* out) {
  const std::byte* panel = part.panels + static_cast<size_t>(row / kPanelRows) * part.panel_bytes;
  const int64_t c = row % kPanelRows;
  const auto half = [](const std::byte* at, int64_t i) {
    uint16_t bits;
    std::memcpy(&bits, at + i * 2, 2);
    return bits;
  };
  switch (part.format) {
    case WeightFormat::f32:
      for (int64_t k = 0; k < cols; ++k) std::memcpy(out + k, panel + (k * kPanelRows + c) * 4, 4);
      return;
    case WeightFormat::f16:
      for (int64_t k = 0; k < cols; ++k) out[k] = f16_to_float(half(panel, k * kPanelRows + c));
      return;
    case WeightFormat::bf16:
      for (int64_t k = 0; k < cols; ++k) out[k] = bf16_to_float(half(panel, (k / 2 * kPanelRows + c) * 2 + k % 2));
      return;
    case WeightFormat::q8_0:
      for (int64_t k = 0; k < cols; ++k) {
        const std::byte* block = panel + k / kBlockValues * 544;
        const float scale = f16_to_float(half(block + 512, c));
        const int q = std::to_integer<int>(block[(k % kBlockValues / 4 * kPanelRows + c) * 4 + k % 4]) - 128;
        out[k] = scale * static_cast<float>(q);
      }
      return;
    default:
      break;
  }
  const bool has_min = part.format == WeightFormat::q4_1;
  const int64_t block_bytes = has_min ? 320 : 288;
  for (int64_t b = 0; b < cols / kBlockValues; ++b) {
    const std::byte* block = panel + b * block_bytes;
    const float scale = f16_to_float(half(block + 256, c));
    const float min = has_min ? f16_to_float(half(block + 288, c)) : 0.0f;
    for (int64_t i = 0; i < 16; ++i) {
      const int byte = std::to_integer<int>(block[(i / 4 * kPanelRows + c) * 4 + i % 4]);
      const int low = byte & 15, high = byte >> 4;
      out[b * 32 + i] = has_min ? scale * static_cast<float>(low) + min : scale * static_cast<float>(low - 8);
      out[b * 32 + 16 + i] = has_min ? scale * static_cast<float>(high) + min : scale * static_cast<float>(high - 8);
    }
  }
}

}  // namespace pagoda::cpu

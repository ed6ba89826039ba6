// Stacking and packing of rows, one panel per task.
#include "backend/cpu/pack.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"

namespace pagoda::cpu {
namespace {

/// Packs panels of one part. A part whose rows are made on demand needs room for the rows of a panel on each thread.
class PartPacker {
 public:
  PartPacker(const WeightPart& part, int num_threads)
      : part_(part),
        row_bytes_(weight_row_bytes(part.format, part.cols)),
        scratch_(part.read ? static_cast<size_t>(num_threads) * kPanelRows * row_bytes_ : 0) {}

  void pack(int64_t panel, int thread, std::byte* out) {
    PanelRows rows{};
    const int64_t begin = panel * kPanelRows, end = std::min(begin + kPanelRows, part_.rows);
    std::byte* made = scratch_.data() + static_cast<size_t>(part_.read ? thread : 0) * kPanelRows * row_bytes_;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t stored = part_.row_order.empty() ? i : part_.row_order[static_cast<size_t>(i)];
      if (part_.read) {
        part_.read(stored, made);
        rows.row[i - begin] = made;
        made += row_bytes_;
      } else {
        rows.row[i - begin] = part_.data + static_cast<size_t>(stored) * row_bytes_;
      }
    }
    pack_panel(part_.format, rows, part_.cols, out);
  }

 private:
  const WeightPart& part_;
  size_t row_bytes_;
  std::vector<std::byte> scratch_;  // [threads][16][row_bytes_]
};

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
    ensure(part.data || part.read, "a weight part without data cannot be packed");
  }
}

}  // namespace

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
    PartPacker packer(part, pool.num_threads());
    pool.run(added.num_panels(),
             [&](int64_t panel, int thread) { packer.pack(panel, thread, panels + static_cast<size_t>(panel) * bytes); });
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
  unpack_panel_row(part.format, panel, row % kPanelRows, cols, out);
}

}  // namespace pagoda::cpu

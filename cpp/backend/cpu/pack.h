// The CPU backend's layout of a weight matrix: panels of 16 rows, interleaved so that one vector register holds 16 columns of
// the product. Owns the packed bytes (through Weight::packed). Written by pack_weight, read by linear and embed.
#pragma once

#include <span>
#include <vector>

#include "backend/cpu/pack_memory.h"
#include "backend/cpu/pack_panel.h"
#include "backend/weight.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

/// One stacked part. A part starts a panel of its own; rows past the end of its last panel are zero. A panel is a multiple of
/// 64 bytes:
///   f32, f16   [K][16]
///   bf16       [ceil(K/2)][16][2], the odd value past K is zero
///   quantised  pack_layout.h
struct PackedPart {
  WeightFormat format = WeightFormat::f32;
  int64_t row_begin = 0;  ///< first row in the whole matrix
  int64_t rows = 0;
  int64_t panel_begin = 0;  ///< panels of the parts before it
  size_t panel_bytes = 0;
  const std::byte* panels = nullptr;

  int64_t num_panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

/// What Weight::packed points to.
struct PackedWeight {
  std::vector<PackedPart> parts;
  int64_t num_panels = 0;
  std::shared_ptr<std::byte> bytes;

  static const PackedWeight& of(const Weight& weight) { return *static_cast<const PackedWeight*>(weight.packed.get()); }
};

/// Bytes of the packed form of stacked parts. Pure.
size_t packed_bytes(std::span<const WeightPart> parts);

/// Stacks and repacks stored rows, panels in parallel. Throws InvalidArgument when there are no parts or rows, when the parts'
/// cols differ, when a quantised part's cols are no multiple of its block, a row_order has not one entry per row or pack_panel
/// refuses a row; DeviceError when memory is short; and what a part's `read` throws.
Weight pack_weight(std::span<const WeightPart> parts, ThreadPool& pool, PackMemory& memory);

/// out[cols] = row `row` of the part, bit for bit what dequantise_row makes of the stored row. 0 <= row < part.rows.
void unpack_row(const PackedPart& part, int64_t row, int64_t cols, float* out);

}  // namespace pagoda::cpu

// The CPU backend's layout of a weight matrix: panels of 16 rows, interleaved so that one vector register holds 16 columns of
// the product. Owns the packed bytes (through Weight::packed). Written by pack_weight, read by linear and embed.
#pragma once

#include <span>
#include <vector>

#include "backend/cpu/pack_memory.h"
#include "backend/weight.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

constexpr int64_t kPanelRows = 16;

/// One stacked part. A part starts a panel of its own; rows past the end of its last panel are zero. A panel is a multiple of
/// 64 bytes:
///   f32         [K][16]
///   f16         [K][16]
///   bf16        [ceil(K/2)][16][2], the odd value past K is zero
///   q8_0        [K/32] blocks of [8][16][4] bytes q + 128 and 16 f16 scales
///   q4_0, q4_1  [K/32] blocks of [4][16][4] bytes: byte (j, c, i) holds values 4j + i (low half) and 16 + 4j + i (high half)
///   of row c;
///               then 16 f16 scales and, for q4_1, 16 f16 minima
/// Scales lie with their block so that a product reads one stream: a second one costs decode half of the memory's speed.
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

/// Bytes of one panel of `cols` columns, a multiple of 64.
size_t panel_bytes(WeightFormat format, int64_t cols);

/// Bytes of the packed form of stacked parts. Pure.
size_t packed_bytes(std::span<const WeightPart> parts);

/// Stacks and repacks stored rows, panels in parallel. Throws InvalidArgument when there are no parts or rows, when the parts'
/// cols differ, when a quantised part's cols are no multiple of 32 or a row_order has not one entry per row; DeviceError when
/// memory is short.
Weight pack_weight(std::span<const WeightPart> parts, ThreadPool& pool, PackMemory& memory);

/// out[cols] = row `row` of the part, dequantised exactly as the file's format defines it. 0 <= row < part.rows.
void unpack_row(const PackedPart& part, int64_t row, int64_t cols, float* out);

}  // namespace pagoda::cpu

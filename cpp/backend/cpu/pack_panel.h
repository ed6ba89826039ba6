// One panel of packed weights: how stored rows become one, and how a row is read back from it. Called by pack_weight and embed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/pack_layout.h"

namespace pagoda::cpu {

/// Bytes of one panel of `cols` columns, a multiple of 64.
size_t panel_bytes(WeightFormat format, int64_t cols);

/// The stored rows of one panel; null past the end of the part.
struct PanelRows {
  const std::byte* row[kPanelRows];
};

/// Writes all panel_bytes(format, cols) of `panel`, 64-byte aligned. Throws InvalidArgument when a row cannot be kept exactly:
/// an int4 zero that is no integer in [0, 16].
void pack_panel(WeightFormat format, const PanelRows& rows, int64_t cols, std::byte* panel);

/// out[cols] = row `row` of the panel, bit for bit what dequantise_row (io/dequantise.h) makes of the stored row.
void unpack_panel_row(WeightFormat format, const std::byte* panel, int64_t row, int64_t cols, float* out);

}  // namespace pagoda::cpu

// A weight matrix in a backend's own packed layout. There is one `linear`: the format lives here.
// The loader describes stored rows with WeightPart; Backend::pack turns a list of parts into one Weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/weight_format.h"

namespace pagoda {

/// Makes one row of a matrix: writes weight_row_bytes(format, cols) bytes for stored row `row`. Pure; any thread.
using RowReader = std::function<void(int64_t row, std::byte* out)>;

/// Rows of one stored tensor. Parts of one matrix are stacked in order (q, k, v; gate, up) and share `cols`; their formats may
/// differ. The rows lie in the file as they are (`data`), or are made one by one (`read`) because the file keeps them in
/// another form: transposed, packed in another order, or to be quantised.
struct WeightPart {
  WeightFormat format = WeightFormat::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;  ///< row-major, rows weight_row_bytes(format, cols) apart; unused when `read` is set
  std::vector<int32_t> row_order;   ///< empty, or: packed row i is stored row row_order[i]
  RowReader read = nullptr;
  bool one_scale_per_row = false;  ///< f8_e4m3 only: all blocks of a row have the same scale
};

/// A packed matrix [rows, cols], immutable, shared by its users (a tied embedding and lm_head are one Weight).
struct Weight {
  int64_t rows = 0;
  int64_t cols = 0;
  size_t bytes = 0;                        ///< what it occupies in the backend's memory
  std::vector<WeightFormat> part_formats;  ///< format of each stacked part
  std::shared_ptr<const void> packed;      ///< the backend's own; null while planning
  /// Experts stacked in this matrix, 1 for an ordinary one. Each has rows / num_groups rows, packed from parts of its own:
  /// expert e from the parts [e * P, (e + 1) * P) with P = part_formats.size() / num_groups. Whoever packs them sets it.
  int num_groups = 1;

  explicit operator bool() const { return rows > 0; }
};

}  // namespace pagoda

// Decodes row by row; counts are exact sums over rows, so they do not depend on the number of threads.
#include "io/weight_scan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "core/check.h"
#include "io/dequantise.h"
#include "io/tensor_table.h"

namespace pagoda {
namespace {

constexpr int64_t kTaskValues = int64_t{1} << 18;

/// A tensor as rows to decode.
struct Rows {
  int64_t rows = 0;
  int64_t cols = 0;
  size_t row_bytes = 0;
  std::function<void(const std::byte* row, float* out)> decode;
};

/// One byte holds sign, four exponent bits and three mantissa bits; all ones but the sign is NaN, there is no infinity.
float byte_of_e4m3(std::byte value) {
  const auto bits = std::to_integer<unsigned>(value);
  return (bits & 0x7f) == 0x7f ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(bits & 0x7f);
}

std::optional<Rows> rows_of(const WeightSource& source, const TensorListing& listing) {
  int64_t numel = 0;
  if (!checked_numel(listing.shape, &numel) || numel == 0) return std::nullopt;
  Rows rows;
  rows.cols = listing.shape.empty() ? 1 : listing.shape.back();
  rows.rows = numel / rows.cols;
  rows.row_bytes = listing.bytes / static_cast<size_t>(rows.rows);
  if (listing.type == "F8_E4M3") {
    rows.decode = [cols = rows.cols](const std::byte* row, float* out) { std::transform(row, row + cols, out, byte_of_e4m3); };
  } else if (listing.type == "F64") {
    rows.decode = [cols = rows.cols](const std::byte* row, float* out) {
      for (int64_t i = 0; i < cols; ++i) {
        double value;
        std::memcpy(&value, row + i * 8, 8);
        out[i] = std::isfinite(value) ? static_cast<float>(value != 0) : static_cast<float>(value);
      }
    };
  } else {
    const StoredTensor* tensor = nullptr;
    try {
      tensor = source.find(listing.name);
    } catch (const InvalidArgument&) {  // integers, and types that have no decoder
    }
    if (!tensor || rows.cols % weight_format_info(tensor->format).block_values != 0) return std::nullopt;
    rows.decode = [format = tensor->format, cols = rows.cols](const std::byte* row, float* out) {
      dequantise_row(format, row, cols, out);
    };
  }
  return rows;
}

WeightFault scan_tensor(const std::string& name, const Rows& rows, const std::byte* data, ThreadPool& pool) {
  std::atomic<int64_t> num_nan = 0, num_inf = 0, first = std::numeric_limits<int64_t>::max();
  std::atomic<bool> nonzero = false;
  const int64_t task_rows = std::max<int64_t>(1, kTaskValues / rows.cols);
  pool.run((rows.rows + task_rows - 1) / task_rows, [&](int64_t task, int) {
    std::vector<float> values(static_cast<size_t>(rows.cols));
    for (int64_t row = task * task_rows; row < std::min(rows.rows, (task + 1) * task_rows); ++row) {
      rows.decode(data + static_cast<size_t>(row) * rows.row_bytes, values.data());
      for (int64_t i = 0; i < rows.cols; ++i) {
        const float value = values[static_cast<size_t>(i)];
        if (std::isfinite(value)) {
          if (value != 0) nonzero.store(true, std::memory_order_relaxed);
          continue;
        }
        ++(std::isnan(value) ? num_nan : num_inf);
        int64_t known = first.load();
        while (row * rows.cols + i < known && !first.compare_exchange_weak(known, row * rows.cols + i)) {
        }
      }
    }
  });
  WeightFault fault{name, num_nan, num_inf, -1, false};
  if (num_nan + num_inf > 0) fault.first = first;
  fault.all_zero = rows.rows > 1 && !nonzero && fault.first < 0;
  return fault;
}

}  // namespace

WeightScan scan_weights(const WeightSource& source, ThreadPool& pool,
                        const std::function<void(size_t done, size_t total)>& progress) {
  WeightScan scan;
  size_t done = 0;
  for (const TensorListing& listing : source.list()) {
    const std::optional<TensorBytes> bytes = source.find_bytes(listing.name);
    const std::optional<Rows> rows = rows_of(source, listing);
    if (rows && bytes) {
      ++scan.num_tensors;
      scan.bytes += listing.bytes;
      const WeightFault fault = scan_tensor(listing.name, *rows, bytes->data, pool);
      if (fault.first >= 0 || fault.all_zero) scan.faults.push_back(fault);
    } else {
      ++scan.num_skipped;
    }
    done += listing.bytes;
    if (progress) progress(done, source.total_bytes());
  }
  return scan;
}

}  // namespace pagoda

// Reading everything that an opened file offers, for the targets of both kinds of weight files.
#include <algorithm>
#include <vector>

#include "core/check.h"
#include "io/dequantise.h"
#include "targets.h"

namespace pagoda {
namespace {

constexpr int64_t kMaxCols = 1 << 16;

size_t sum(const std::byte* data, size_t bytes) {
  size_t total = 0;
  for (size_t i = 0; i < bytes; ++i) total += static_cast<size_t>(data[i]);
  return total;
}

/// Decodes the rows of a usable tensor; returns how many values.
size_t decode(const StoredTensor& tensor) {
  const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  const size_t row_bytes = weight_row_bytes(tensor.format, cols);
  ensure(row_bytes > 0 && tensor.bytes % row_bytes == 0, "a tensor of ", tensor.bytes, " bytes in rows of ", row_bytes);
  if (cols > kMaxCols) return 0;
  std::vector<float> row(static_cast<size_t>(cols));
  size_t num_values = 0;
  for (size_t at = 0; at < tensor.bytes; at += row_bytes, num_values += row.size()) {
    dequantise_row(tensor.format, tensor.data + at, cols, row.data());
  }
  return num_values;
}

}  // namespace

size_t read_tensors(const WeightSource& source) {
  size_t total = source.total_bytes() + source.describe().size() + source.warnings().size();
  ensure(source.names().size() == source.list().size(), "names and lines differ in number");
  for (const TensorListing& line : source.list()) {
    const auto bytes = source.find_bytes(line.name);
    ensure(bytes && bytes->type == line.type && bytes->shape == line.shape && bytes->bytes == line.bytes, "bytes of ",
           line.name);
    total += sum(bytes->data, bytes->bytes);
    try {
      const StoredTensor* tensor = source.find(line.name);
      ensure(tensor && tensor->bytes == line.bytes && tensor->shape == line.shape, "tensor ", line.name);
      total += decode(*tensor);
    } catch (const InvalidArgument&) {  // a type or shape that is listed only
      total += 1;
    }
  }
  return total;
}

}  // namespace pagoda

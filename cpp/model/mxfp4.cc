// The same blocks as GGUF's, with scales and halves of bytes in other places.
#include "model/mxfp4.h"

#include "core/check.h"
#include "core/weight_format.h"
#include "model/quantised_tensors.h"

namespace pagoda {
namespace {

constexpr int64_t kHalf = kBlockValues / 2;  // values of half a block, and bytes of a whole one

/// Value `i` of a stored block.
std::byte nibble(const std::byte* block, int64_t i) {
  const std::byte both = block[i / 2];
  return i % 2 == 0 ? both & std::byte{15} : both >> 4;
}

}  // namespace

std::optional<WeightPart> Mxfp4::find_in_stack(const WeightSource& source, const std::string& name, StackPlace place,
                                               int64_t rows, int64_t cols) const {
  if (!source.find_bytes(name + "_blocks")) return std::nullopt;
  require(cols % kBlockValues == 0, source.describe(), ": tensor ", name, "_blocks: mxfp4 needs columns in multiples of ",
          kBlockValues, ", got ", cols);
  const int64_t blocks = cols / kBlockValues;
  const TensorBytes values = require_tensor(source, name + "_blocks", {"U8"}, {place.count, rows, blocks, kHalf});
  const TensorBytes scales = require_tensor(source, name + "_scales", {"U8"}, {place.count, rows, blocks});
  WeightPart part;
  part.format = WeightFormat::mxfp4;
  part.rows = rows;
  part.cols = cols;
  part.read = [values = values.data, scales = scales.data, first = place.index * rows, blocks](int64_t row, std::byte* out) {
    for (int64_t b = (first + row) * blocks; b < (first + row + 1) * blocks; ++b) {
      const std::byte* block = values + b * kHalf;
      *out++ = scales[b];
      for (int64_t i = 0; i < kHalf; ++i) *out++ = nibble(block, i) | nibble(block, i + kHalf) << 4;
    }
  };
  return part;
}

}  // namespace pagoda

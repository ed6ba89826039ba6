// Where weights come from: the interface of the file readers. The model loader asks it for tensors by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/weight_format.h"

namespace pagoda {

/// A tensor in a mapped file. `data` stays valid as long as its source; it is aligned to nothing, not even to its element.
struct StoredTensor {
  std::string name;
  WeightFormat format = WeightFormat::f32;
  std::vector<int64_t> shape;  ///< row-major, outermost first: [rows, cols]; every dimension >= 1; empty for a scalar
  const std::byte* data = nullptr;
  size_t bytes = 0;
};

/// A tensor of any element type as it lies in the file, for readers that know what its numbers mean (packed integers, scales).
struct TensorBytes {
  std::string_view type;  ///< the file's own word: "I32", "F8_E4M3"
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t bytes = 0;
};

/// One line of a listing: also tensors whose type the engine does not compute with.
struct TensorListing {
  std::string name;
  std::string type;  ///< the file's own word: "BF16", "Q4_K"
  std::vector<int64_t> shape;
  size_t bytes = 0;
};

/// Immutable after opening, so any thread may read it.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  /// The tensor, or null if there is none of that name. Throws InvalidArgument naming the tensor and its type if the tensor
  /// exists but is stored in a way the engine cannot use (an integer buffer, an unknown quantisation, no elements).
  virtual const StoredTensor* find(std::string_view name) const = 0;

  /// The tensor whatever its type, or nothing if there is none of that name.
  virtual std::optional<TensorBytes> find_bytes(std::string_view name) const = 0;

  virtual std::vector<std::string> names() const = 0;     ///< of all tensors, usable or not, sorted
  virtual std::vector<TensorListing> list() const = 0;    ///< of all tensors, sorted by name
  virtual std::string describe() const = 0;               ///< the path it was opened with
  virtual size_t total_bytes() const = 0;                 ///< of all tensors' data
  virtual std::vector<std::string> warnings() const = 0;  ///< oddities of the files that do not keep them from being used
};

}  // namespace pagoda

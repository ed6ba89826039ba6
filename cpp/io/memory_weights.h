// Weights that another program has opened and holds in memory or in mappings of its own: what `enginectl convert` reads from
// pickles through torch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/weight_source.h"

namespace pagoda {

/// A tensor whose bytes lie at `data`, row-major without gaps.
struct MemoryTensor {
  std::string name;
  std::string type;  ///< safetensors' word: "F32", "BF16", "I64"
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t bytes = 0;
};

/// A source named `where` in error texts. The memory outlives it. Throws InvalidArgument for two tensors of one name.
std::unique_ptr<WeightSource> make_memory_weights(const std::string& where, const std::vector<MemoryTensor>& tensors);

}  // namespace pagoda

// Parses the structure of a mapped GGUF file: header, metadata, tensor descriptions. Called by io/gguf only.
#pragma once

#include <cstdint>
#include <vector>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "io/tensor_table.h"

namespace pagoda {

struct GgufContents {
  uint32_t version = 0;
  std::vector<GgufEntry> metadata;
  std::vector<size_t> by_key;  ///< places in `metadata`, sorted by key
  TensorTable tensors;
};

/// Reads and checks everything but the weights. What it returns points into `file`'s mapping. Allocates no more than a small
/// multiple of the bytes it has really read, whatever the counts in the file claim. Throws InvalidArgument.
GgufContents read_gguf(const MappedFile& file);

}  // namespace pagoda

// Parses the structure of a mapped GGUF file: header, metadata, tensor descriptions. Called by io/gguf and io/gguf_split.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "io/tensor_table.h"

namespace pagoda {

/// The value of `key`, null when absent; `by_key` holds the places in `metadata` sorted by key.
const GgufValue* find_value(const std::vector<GgufEntry>& metadata, const std::vector<size_t>& by_key, std::string_view key);

struct GgufContents {
  uint32_t version = 0;
  std::vector<GgufEntry> metadata;
  std::vector<size_t> by_key;       ///< places in `metadata`, sorted by key
  std::vector<TableEntry> tensors;  ///< in file order, names may repeat

  const GgufValue* find_value(std::string_view key) const { return pagoda::find_value(metadata, by_key, key); }
};

/// Reads and checks everything but the weights. What it returns points into `file`'s mapping. Allocates no more than a small
/// multiple of the bytes it has really read, whatever the counts in the file claim. Throws InvalidArgument.
GgufContents read_gguf(const MappedFile& file);

}  // namespace pagoda

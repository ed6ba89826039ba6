// Builds GGUF files byte by byte, so that tests can make every part of one wrong.
#pragma once

#include <string>
#include <vector>

#include "io/gguf_value.h"
#include "io_test_files.h"

namespace pagoda {

inline std::string text(const std::string& bytes) { return raw(uint64_t{bytes.size()}) + bytes; }
inline std::string key(const std::string& name, GgufType type) { return text(name) + raw(static_cast<uint32_t>(type)); }

template <class T>
std::string number(const std::string& name, GgufType type, T value) {
  return key(name, type) + raw(value);
}

inline std::string tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  std::string bytes = text(name) + raw(static_cast<uint32_t>(dims.size()));
  for (uint64_t dim : dims) bytes += raw(dim);
  return bytes + raw(type) + raw(offset);
}

/// A whole file: header, metadata, tensor descriptions, padding to `alignment`, data.
struct GgufBuilder {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> metadata;
  std::vector<std::string> tensors;
  size_t alignment = 32;
  std::string data;

  std::string build() const {
    std::string bytes = magic + raw(version) + raw(uint64_t{tensors.size()}) + raw(uint64_t{metadata.size()});
    for (const std::string& part : metadata) bytes += part;
    for (const std::string& part : tensors) bytes += part;
    while (bytes.size() % alignment != 0) bytes += '\0';
    return bytes + data;
  }
};

}  // namespace pagoda

// A file is the length of its header in 8 bytes, the header as JSON, and the tensors without gaps.
#include "io/safetensors_writer.h"

#include <cstdint>
#include <cstdio>
#include <set>
#include <string_view>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr size_t kHeaderAlignment = 8;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string header_of(const std::vector<const OutputTensor*>& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  size_t offset = 0;
  for (const OutputTensor* tensor : tensors) {
    std::string shape;
    for (const int64_t size : tensor->shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    header += str(",", quoted(tensor->name), ":{\"dtype\":", quoted(tensor->type), ",\"shape\":[", shape,
                  "],\"data_offsets\":[", offset, ",", offset + tensor->bytes(), "]}");
    offset += tensor->bytes();
  }
  header += '}';
  const size_t over = header.size() % kHeaderAlignment;
  return over ? header + std::string(kHeaderAlignment - over, ' ') : header;
}

/// The tensors of each file.
std::vector<std::vector<const OutputTensor*>> split(const std::vector<OutputTensor>& tensors, size_t max_file_bytes) {
  std::vector<std::vector<const OutputTensor*>> files(1);
  size_t bytes = 0;
  for (const OutputTensor& tensor : tensors) {
    if (!files.back().empty() && bytes + tensor.bytes() > max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(&tensor);
    bytes += tensor.bytes();
  }
  return files;
}

std::string file_name(size_t i, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, count);
  return name;
}

}  // namespace

SafetensorsFiles write_safetensors(const std::string& directory, const std::vector<OutputTensor>& tensors,
                                   size_t max_file_bytes, ThreadPool& pool, const WriteProgress& progress) {
  SafetensorsFiles result;
  std::set<std::string_view> names;
  for (const OutputTensor& tensor : tensors) {
    require(names.insert(tensor.name).second, directory, ": two tensors would be named ", tensor.name);
    result.total_bytes += tensor.bytes();
  }
  const auto files = split(tensors, max_file_bytes);
  result.num_files = files.size();
  TensorWriter writer(pool, result.total_bytes, progress);
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = file_name(i, files.size());
    OutputFile file(directory + "/" + name);
    const std::string header = header_of(files[i]);
    const uint64_t length = header.size();
    file.write(&length, sizeof length);
    file.write(header);
    for (const OutputTensor* tensor : files[i]) {
      writer.write(*tensor, file);
      result.file_of.emplace_back(tensor->name, name);
    }
    file.close();
  }
  return result;
}

}  // namespace pagoda

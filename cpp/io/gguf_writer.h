// Writes GGUF files, version 3. The counterpart of io/gguf; used by model/gguf_export.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/gguf_value.h"
#include "io/output_file.h"

namespace pagoda {

/// A metadata value to write. The alternatives' types are those that files hold.
using GgufItem = std::variant<bool, uint32_t, int32_t, uint64_t, float, std::string, std::vector<bool>, std::vector<int32_t>,
                              std::vector<uint8_t>, std::vector<float>, std::vector<std::string>>;

/// Keys with values, in the order in which they were first set.
class GgufMetadata {
 public:
  /// Sets or replaces.
  void set(std::string_view key, const GgufItem& item);
  /// A value of another file as it is.
  void set(std::string_view key, const GgufValue& value);

  bool has(std::string_view key) const;
  /// The value of a key set to a uint32_t; nothing for another one or for none.
  std::optional<uint32_t> find_u32(std::string_view key) const;

  size_t size() const { return entries_.size(); }
  /// All of it as it stands in a file.
  std::string encoded() const;

 private:
  struct Entry {
    std::string key;
    GgufType type;
    std::string bytes;
  };

  void put(std::string_view key, GgufType type, std::string bytes);
  const Entry* find(std::string_view key) const;

  std::vector<Entry> entries_;
};

/// A file with its header and descriptions written and room for all tensors.
class GgufWriter {
 public:
  static constexpr size_t kAlignment = 32;

  /// Creates `path`; there must be no such file. Types of tensors are names of ggml types. `metadata` gets
  /// general.alignment. Throws InvalidArgument naming the path, or for two tensors of one name.
  GgufWriter(const std::string& path, GgufMetadata metadata, std::vector<OutputTensor> tensors);

  size_t num_tensors() const { return tensors_.size(); }
  size_t tensor_bytes() const;
  /// Writes the next tensor, in the order given.
  void write_next(TensorWriter& writer);
  /// To be called after the last tensor.
  void finish();

 private:
  std::vector<OutputTensor> tensors_;
  size_t next_ = 0;
  OutputFile file_;
};

}  // namespace pagoda

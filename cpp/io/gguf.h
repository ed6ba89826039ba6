// Weights and metadata in a GGUF file, versions 2 and 3, or in the files of a model that was split. Owns the mappings that its
// tensors and metadata strings point into.
// Opened by the model loader, by the tokenizer bridge and by `enginectl inspect`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_value.h"
#include "io/mapped_file.h"
#include "io/tensor_table.h"
#include "io/weight_source.h"

namespace pagoda {

/// One line of the metadata. The key is valid UTF-8.
struct GgufEntry {
  std::string_view key;
  GgufValue value;
};

class GgufFile final : public WeightSource {
 public:
  /// Maps the file and checks all of its structure against its real size; no weight is read. The first file of a split model
  /// (`-00001-of-00003.gguf`) brings the others along. Throws InvalidArgument naming the file, the byte or field, what was
  /// found and what was expected.
  explicit GgufFile(const std::string& path);
  /// The same for a whole model in a file that is open already.
  explicit GgufFile(MappedFile file);
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  uint32_t version() const { return version_; }
  const std::vector<GgufEntry>& metadata() const { return metadata_; }  ///< in file order, of the first file

  const GgufValue* find_value(std::string_view key) const;  ///< null when absent

  /// A metadata value as a type. Without default an absent key throws; a value of another kind always throws, naming the key.
  int64_t get_int(std::string_view key) const;
  double get_double(std::string_view key) const;
  bool get_bool(std::string_view key) const;
  std::string_view get_string(std::string_view key) const;
  const GgufArray& get_array(std::string_view key) const;
  int64_t get_int(std::string_view key, int64_t fallback) const;
  double get_double(std::string_view key, double fallback) const;
  bool get_bool(std::string_view key, bool fallback) const;
  std::string_view get_string(std::string_view key, std::string_view fallback) const;

  /// Shapes are row-major: the file's dimensions reversed.
  const StoredTensor* find(std::string_view name) const override { return table_.find(name, files_[0].path()); }
  std::optional<TensorBytes> find_bytes(std::string_view name) const override { return table_.find_bytes(name); }
  std::vector<std::string> names() const override { return table_.names(); }
  std::vector<TensorListing> list() const override { return table_.list(); }
  std::string describe() const override { return files_[0].path(); }
  size_t total_bytes() const override { return table_.total_bytes(); }
  std::vector<std::string> warnings() const override { return {}; }

 private:
  template <class Get>
  decltype(auto) get(std::string_view key, const Get& as) const;

  std::vector<MappedFile> files_;  // at least one
  uint32_t version_ = 0;
  std::vector<GgufEntry> metadata_;
  std::vector<size_t> by_key_;  // places in metadata_, sorted by key
  TensorTable table_;
};

}  // namespace pagoda

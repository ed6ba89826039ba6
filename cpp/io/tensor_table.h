// A list of stored tensors that can be searched by name. Filled by the file readers, which implement WeightSource with it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_source.h"

namespace pagoda {

/// A tensor as a reader found it. `refusal` is empty for a usable one, else the reason why find() must refuse it.
struct TableEntry {
  StoredTensor tensor;
  std::string type;     ///< the file's own name of the type
  std::string refusal;  ///< e.g. "its type I64 is not a weight type"
  size_t file = 0;      ///< which file of the source it lies in
};

class TensorTable {
 public:
  TensorTable() = default;
  /// Sorts the entries by name. Names must be unique: see `first_duplicate`.
  explicit TensorTable(std::vector<TableEntry> entries);

  /// The first entry whose successor has the same name, or null.
  const TableEntry* first_duplicate() const;

  const std::vector<TableEntry>& entries() const { return entries_; }
  const TableEntry* find_entry(std::string_view name) const;

  /// As WeightSource::find; `source` is named in the refusal.
  const StoredTensor* find(std::string_view name, const std::string& source) const;

  /// As WeightSource::find_bytes.
  std::optional<TensorBytes> find_bytes(std::string_view name) const;

  std::vector<std::string> names() const;
  std::vector<TensorListing> list() const;
  size_t total_bytes() const;

 private:
  std::vector<TableEntry> entries_;
};

/// "'name'" for an error text, long names cut, so that a hostile file cannot write a book into the log.
std::string quote_name(std::string_view name);

/// "'a', 'b', 'c' and 7 more" for an error text.
std::string join_some(const std::vector<std::string>& names);

/// "[2, 3]" for an error text.
std::string shape_text(const std::vector<int64_t>& shape);

/// The product of the dimensions (each >= 0) into `*numel`; false when it overflows 63 bits.
bool checked_numel(const std::vector<int64_t>& shape, int64_t* numel);

}  // namespace pagoda

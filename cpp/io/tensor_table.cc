// The searchable list of stored tensors.
#include "io/tensor_table.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace pagoda {

TensorTable::TensorTable(std::vector<TableEntry> entries) : entries_(std::move(entries)) {
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const TableEntry& a, const TableEntry& b) { return a.tensor.name < b.tensor.name; });
}

const TableEntry* TensorTable::first_duplicate() const {
  const auto found = std::adjacent_find(entries_.begin(), entries_.end(), [](const TableEntry& a, const TableEntry& b) {
    return a.tensor.name == b.tensor.name;
  });
  return found == entries_.end() ? nullptr : &*found;
}

const TableEntry* TensorTable::find_entry(std::string_view name) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), name,
                                      [](const TableEntry& entry, std::string_view key) { return entry.tensor.name < key; });
  return found != entries_.end() && found->tensor.name == name ? &*found : nullptr;
}

const StoredTensor* TensorTable::find(std::string_view name, const std::string& source) const {
  const TableEntry* entry = find_entry(name);
  if (!entry) return nullptr;
  require(entry->refusal.empty(), source, ": tensor ", quote_name(name), " cannot be used: ", entry->refusal);
  return &entry->tensor;
}

std::optional<TensorBytes> TensorTable::find_bytes(std::string_view name) const {
  const TableEntry* entry = find_entry(name);
  if (!entry) return std::nullopt;
  return TensorBytes{entry->type, entry->tensor.shape, entry->tensor.data, entry->tensor.bytes};
}

std::vector<std::string> TensorTable::names() const {
  std::vector<std::string> names;
  names.reserve(entries_.size());
  for (const TableEntry& entry : entries_) names.push_back(entry.tensor.name);
  return names;
}

std::vector<TensorListing> TensorTable::list() const {
  std::vector<TensorListing> lines;
  lines.reserve(entries_.size());
  for (const auto& [tensor, type, refusal, file] : entries_) lines.push_back({tensor.name, type, tensor.shape, tensor.bytes});
  return lines;
}

size_t TensorTable::total_bytes() const {
  size_t total = 0;
  for (const TableEntry& entry : entries_) total += entry.tensor.bytes;
  return total;
}

std::string quote_name(std::string_view name) {
  constexpr size_t kShown = 100;
  if (name.size() <= kShown) return str("'", name, "'");
  return str("'", name.substr(0, kShown), "...' (", name.size(), " bytes)");
}

std::string join_some(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) text += (i ? ", " : "") + quote_name(names[i]);
  return names.size() > kShown ? text + str(" and ", names.size() - kShown, " more") : text;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  constexpr size_t kShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < std::min(shape.size(), kShown); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() > kShown ? ", ...]" : "]");
}

bool checked_numel(const std::vector<int64_t>& shape, int64_t* numel) {
  *numel = 1;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    *numel = 0;
    return true;
  }
  for (int64_t dim : shape) {
    if (__builtin_mul_overflow(*numel, dim, numel)) return false;
  }
  return true;
}

}  // namespace pagoda

// An opened GGUF file; the parsing is in gguf_reader.cc.
#include "io/gguf.h"

#include <utility>

#include "core/check.h"
#include "io/gguf_reader.h"
#include "io/gguf_split.h"

namespace pagoda {

GgufFile::GgufFile(const std::string& path) : GgufFile(MappedFile(path)) {}

GgufFile::GgufFile(MappedFile file) {
  GgufContents contents = read_gguf(file);
  std::vector<GgufPart> parts = read_other_parts(file, contents);
  files_.push_back(std::move(file));
  std::vector<TableEntry> entries = std::move(contents.tensors);
  for (GgufPart& part : parts) {
    for (TableEntry& entry : part.tensors) {
      entry.file = files_.size();
      entries.push_back(std::move(entry));
    }
    files_.push_back(std::move(part.file));
  }
  version_ = contents.version;
  metadata_ = std::move(contents.metadata);
  by_key_ = std::move(contents.by_key);
  table_ = TensorTable(std::move(entries));
  if (const TableEntry* twice = table_.first_duplicate()) {
    const std::string &path = files_[twice->file].path(), &other = files_[twice[1].file].path();
    throw InvalidArgument(str(path, ": two tensors are named ", quote_name(twice->tensor.name),
                              path == other ? "" : ", the other one is in " + other));
  }
}

const GgufValue* GgufFile::find_value(std::string_view key) const { return pagoda::find_value(metadata_, by_key_, key); }

/// Puts the file and the key in front of what `as` complains about.
template <class Get>
decltype(auto) GgufFile::get(std::string_view key, const Get& as) const {
  const GgufValue* value = find_value(key);
  if (!value) throw InvalidArgument(str(describe(), ": metadata ", quote_name(key), " is missing"));
  try {
    return as(*value);
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(str(describe(), ": metadata ", quote_name(key), ": ", error.what()));
  }
}

int64_t GgufFile::get_int(std::string_view key) const {
  return get(key, [](const GgufValue& value) { return value.as_int(); });
}
double GgufFile::get_double(std::string_view key) const {
  return get(key, [](const GgufValue& value) { return value.as_double(); });
}
bool GgufFile::get_bool(std::string_view key) const {
  return get(key, [](const GgufValue& value) { return value.as_bool(); });
}
std::string_view GgufFile::get_string(std::string_view key) const {
  return get(key, [](const GgufValue& value) { return value.as_string(); });
}
const GgufArray& GgufFile::get_array(std::string_view key) const {
  return get(key, [](const GgufValue& value) -> const GgufArray& { return value.as_array(); });
}

int64_t GgufFile::get_int(std::string_view key, int64_t fallback) const { return find_value(key) ? get_int(key) : fallback; }
double GgufFile::get_double(std::string_view key, double fallback) const {
  return find_value(key) ? get_double(key) : fallback;
}
bool GgufFile::get_bool(std::string_view key, bool fallback) const { return find_value(key) ? get_bool(key) : fallback; }
std::string_view GgufFile::get_string(std::string_view key, std::string_view fallback) const {
  return find_value(key) ? get_string(key) : fallback;
}

}  // namespace pagoda

// An opened GGUF file; the parsing is in gguf_reader.cc.
#include "io/gguf.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "io/gguf_reader.h"

namespace pagoda {

GgufFile::GgufFile(const std::string& path) : file_(path) {
  GgufContents contents = read_gguf(file_);
  version_ = contents.version;
  metadata_ = std::move(contents.metadata);
  by_key_ = std::move(contents.by_key);
  table_ = std::move(contents.tensors);
}

const GgufValue* GgufFile::find_value(std::string_view key) const {
  const auto found = std::lower_bound(by_key_.begin(), by_key_.end(), key,
                                      [&](size_t place, std::string_view wanted) { return metadata_[place].key < wanted; });
  return found != by_key_.end() && metadata_[*found].key == key ? &metadata_[*found].value : nullptr;
}

/// Puts the file and the key in front of what `as` complains about.
template <class Get>
decltype(auto) GgufFile::get(std::string_view key, const Get& as) const {
  const GgufValue* value = find_value(key);
  if (!value) throw InvalidArgument(str(file_.path(), ": metadata ", quote_name(key), " is missing"));
  try {
    return as(*value);
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(str(file_.path(), ": metadata ", quote_name(key), ": ", error.what()));
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

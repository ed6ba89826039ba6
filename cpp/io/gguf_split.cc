// Finding the parts of a split model by the name of the first, and checking that they belong together.
#include "io/gguf_split.h"

#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr int64_t kMaxParts = 99999;  // a name has five digits

/// What a part says about itself. A count of 0 or 1 is a model in one file: that is what merging leaves behind.
struct Split {
  int64_t no = 0;  // from 0
  int64_t count = 0;
  int64_t num_tensors = 0;  // of all parts together
};

int64_t get_int(const MappedFile& file, const GgufContents& contents, const char* key) {
  const GgufValue* value = contents.find_value(key);
  require(value, file.path(), ": metadata '", key, "' is missing in a part of a split model");
  try {
    return value->as_int();
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(str(file.path(), ": metadata '", key, "': ", error.what()));
  }
}

Split read_split(const MappedFile& file, const GgufContents& contents) {
  Split split;
  if (contents.find_value("split.count")) split.count = get_int(file, contents, "split.count");
  if (split.count == 0 || split.count == 1) return split;
  require(split.count > 0 && split.count <= kMaxParts, file.path(), ": metadata 'split.count' must be in [0, ", kMaxParts,
          "], found ", split.count);
  split.no = get_int(file, contents, "split.no");
  require(split.no >= 0 && split.no < split.count, file.path(), ": metadata 'split.no' must be in [0, ", split.count,
          ") as 'split.count' says, found ", split.no);
  split.num_tensors = get_int(file, contents, "split.tensors.count");
  return split;
}

/// "-00002-of-00003.gguf" for no = 1.
std::string suffix(int64_t no, int64_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "-%05lld-of-%05lld.gguf", static_cast<long long>(no + 1), static_cast<long long>(count));
  return text;
}

/// Paths of the second and further parts.
std::vector<std::string> other_paths(const std::string& path, const Split& split) {
  const std::string own = suffix(split.no, split.count);
  require(path.ends_with(own), path, ": part ", split.no + 1, " of a model of ", split.count, " parts; its name must end in ",
          own, ", so that the others can be found");
  const std::string prefix = path.substr(0, path.size() - own.size());
  require(split.no == 0, path, ": part ", split.no + 1, " of a model of ", split.count, " parts; name the first one, ", prefix,
          suffix(0, split.count));
  std::vector<std::string> paths, absent;
  for (int64_t no = 1; no < split.count; ++no) {
    paths.push_back(prefix + suffix(no, split.count));
    std::error_code error;
    if (!std::filesystem::exists(paths.back(), error)) absent.push_back(paths.back());
  }
  require(absent.empty(), path, ": ", absent.size(), " of the model's ", split.count,
          " parts do not exist: ", join_some(absent));
  return paths;
}

void check_part(const std::string& first, const Split& split, const std::string& path, int64_t no, const Split& own) {
  require(own.count == split.count && own.no == no && own.num_tensors == split.num_tensors, path,
          ": is no part of the model of ", first, ": expected split.no ", no, ", split.count ", split.count,
          " and split.tensors.count ", split.num_tensors, ", found ", own.no, ", ", own.count, " and ", own.num_tensors);
}

}  // namespace

std::vector<GgufPart> read_other_parts(const MappedFile& file, const GgufContents& first) {
  const Split split = read_split(file, first);
  std::vector<GgufPart> parts;
  if (split.count < 2) return parts;
  auto num_tensors = static_cast<int64_t>(first.tensors.size());
  for (const std::string& path : other_paths(file.path(), split)) {
    MappedFile other(path);
    GgufContents contents = read_gguf(other);
    check_part(file.path(), split, path, static_cast<int64_t>(parts.size()) + 1, read_split(other, contents));
    num_tensors += static_cast<int64_t>(contents.tensors.size());
    parts.push_back({std::move(other), std::move(contents.tensors)});
  }
  require(num_tensors == split.num_tensors, file.path(), ": metadata 'split.tensors.count' says ", split.num_tensors,
          " tensors, the ", split.count, " parts hold ", num_tensors);
  return parts;
}

}  // namespace pagoda

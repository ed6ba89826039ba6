// Finding the files of a safetensors model and joining its shards.
#include "io/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/json.h"
#include "io/safetensors_file.h"
#include "io/tensor_table.h"

namespace pagoda {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

class SafetensorsSource final : public WeightSource {
 public:
  SafetensorsSource(std::string path, std::vector<MappedFile> files, TensorTable table, std::vector<std::string> warnings)
      : path_(std::move(path)), files_(std::move(files)), table_(std::move(table)), warnings_(std::move(warnings)) {}

  const StoredTensor* find(std::string_view name) const override { return table_.find(name, path_); }
  std::optional<TensorBytes> find_bytes(std::string_view name) const override { return table_.find_bytes(name); }
  std::vector<std::string> names() const override { return table_.names(); }
  std::vector<TensorListing> list() const override { return table_.list(); }
  std::string describe() const override { return path_; }
  size_t total_bytes() const override { return table_.total_bytes(); }
  std::vector<std::string> warnings() const override { return warnings_; }

 private:
  std::string path_;
  std::vector<MappedFile> files_;
  TensorTable table_;  // points into files_
  std::vector<std::string> warnings_;
};

bool is_pickle(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".pkl" || extension == ".ckpt";
}

[[noreturn]] void refuse_pickle(const std::string& path, const std::string& file) {
  throw InvalidArgument(path + ": pickle formats are not loaded, because reading them can run code (found " + file +
                        "); convert with `enginectl convert " + path + " OUT`");
}

/// The file to open in a model directory.
std::string resolve_directory(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  require(!error, "cannot read the directory ", path, ": ", error.message());
  std::sort(names.begin(), names.end());
  for (const char* wanted : {kSingleName, kIndexName}) {
    if (std::binary_search(names.begin(), names.end(), wanted)) return (fs::path(path) / wanted).string();
  }
  require(!names.empty(), path, ": the directory is empty, expected ", kSingleName, " or ", kIndexName);
  std::vector<std::string> others;
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors") || name.ends_with(".gguf")) others.push_back(name);
  }
  const auto pickle = std::find_if(names.begin(), names.end(), [](const std::string& name) { return is_pickle(name); });
  if (others.empty() && pickle != names.end()) refuse_pickle(path, *pickle);
  throw InvalidArgument(str(path, ": the directory has no ", kSingleName, " and no ", kIndexName,
                            others.empty() ? "" : "; name one file to load it alone: ", join_some(others)));
}

/// The index of a sharded model: which tensor lies in which of its files.
struct ShardIndex {
  std::vector<std::string> shards;           // file names, sorted
  std::map<std::string, size_t> weight_map;  // tensor name -> place in `shards`
  int64_t total_size = -1;                   // bytes, as the index says; -1 when it does not
};

ShardIndex read_index(const std::string& path) {
  const MappedFile file(path);
  Json::ParseOptions options;
  options.source = path;
  options.refuse_duplicate_keys = true;
  const Json json = Json::parse(file.text(), options);
  const Json* map = json.is_object() ? json.find("weight_map") : nullptr;
  require(map && map->is_object() && !map->members().empty(), path,
          ": weight_map must be an object of tensor name to file name");
  std::set<std::string> shards;
  for (const Json::Member& member : map->members()) {
    const bool named = member.value.is_string() && member.value.as_string().ends_with(".safetensors");
    // A shard lies beside its index: a path could lead anywhere on the machine.
    if (!named || member.value.as_string().find('/') != std::string::npos) {
      throw InvalidArgument(str(path, ": weight_map: tensor ", quote_name(member.key),
                                " must be in a .safetensors file named without a directory, found ", member.value.describe()));
    }
    shards.insert(member.value.as_string());
  }
  ShardIndex index;
  index.shards.assign(shards.begin(), shards.end());
  for (const Json::Member& member : map->members()) {
    const auto shard = std::lower_bound(index.shards.begin(), index.shards.end(), member.value.as_string());
    index.weight_map.emplace(member.key, static_cast<size_t>(shard - index.shards.begin()));
  }
  const Json* metadata = json.find("metadata");
  const Json* size = metadata && metadata->is_object() ? metadata->find("total_size") : nullptr;
  if (size && size->kind() == Json::Kind::number) {
    const double bytes = size->as_double();  // some tools write it as a float
    if (bytes >= 0 && bytes <= 0x1p53) index.total_size = static_cast<int64_t>(bytes);
  }
  return index;
}

std::vector<MappedFile> map_shards(const std::string& index_path, const ShardIndex& index) {
  const fs::path directory = fs::path(index_path).parent_path();
  std::vector<std::string> absent;
  for (const std::string& shard : index.shards) {
    std::error_code error;
    if (!fs::exists(directory / shard, error)) absent.push_back(shard);
  }
  require(absent.empty(), index_path, ": weight_map names ", absent.size(), " of ", index.shards.size(),
          " shards that do not exist: ", join_some(absent));
  std::vector<MappedFile> files;
  for (const std::string& shard : index.shards) files.emplace_back((directory / shard).string());
  return files;
}

/// Every weight lies in exactly one shard, and in the one that the index names.
void check_against_index(const std::string& path, const ShardIndex& index, const TensorTable& table) {
  if (const TableEntry* entry = table.first_duplicate()) {
    const TableEntry* other = entry + 1;
    throw InvalidArgument(str(path, ": tensor ", quote_name(entry->tensor.name),
                              " is in two shards: ", index.shards[entry->file], " and ", index.shards[other->file]));
  }
  std::vector<std::string> missing;
  for (const auto& [name, shard] : index.weight_map) {
    const TableEntry* entry = table.find_entry(name);
    if (!entry) {
      missing.push_back(name);
    } else if (entry->file != shard) {
      throw InvalidArgument(str(path, ": weight_map puts tensor ", quote_name(name), " into ", index.shards[shard],
                                ", but it is in ", index.shards[entry->file]));
    }
  }
  require(missing.empty(), path, ": weight_map names ", missing.size(),
          " tensors that are in none of the shards: ", join_some(missing));
}

std::unique_ptr<WeightSource> open_sharded(const std::string& path) {
  const ShardIndex index = read_index(path);
  std::vector<MappedFile> files = map_shards(path, index);
  std::vector<TableEntry> entries;
  for (size_t i = 0; i < files.size(); ++i) {
    for (TableEntry& entry : read_safetensors(files[i])) {
      entry.file = i;
      entries.push_back(std::move(entry));
    }
  }
  TensorTable table(std::move(entries));
  check_against_index(path, index, table);
  std::vector<std::string> warnings;
  const auto total = static_cast<int64_t>(table.total_bytes());
  if (index.total_size >= 0 && index.total_size != total) {
    // Some published models carry the size of another precision here; every weight was found, so this costs nothing.
    warnings.push_back(str(path, ": metadata.total_size says ", index.total_size, " bytes, the tensors of the ", files.size(),
                           " shards have ", total));
  }
  return std::make_unique<SafetensorsSource>(path, std::move(files), std::move(table), std::move(warnings));
}

}  // namespace

std::unique_ptr<WeightSource> open_safetensors(const std::string& path) {
  std::error_code error;
  const std::string file = fs::is_directory(path, error) ? resolve_directory(path) : path;
  if (is_pickle(file)) refuse_pickle(file, fs::path(file).filename().string());
  return file.ends_with(".json") ? open_sharded(file) : open_safetensors(MappedFile(file));
}

std::unique_ptr<WeightSource> open_safetensors(MappedFile file) {
  std::string path = file.path();
  std::vector<MappedFile> files;
  files.push_back(std::move(file));
  TensorTable table(read_safetensors(files[0]));
  return std::make_unique<SafetensorsSource>(std::move(path), std::move(files), std::move(table), std::vector<std::string>{});
}

}  // namespace pagoda

// Reads /proc and /sys/fs/cgroup. Whatever is missing or unreadable sets no limit.
#include "backend/cpu/device.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace pagoda::cpu {
namespace {

/// File names of one cgroup version's memory controller.
struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* usage;
  const char* cache;  ///< row of memory.stat: file pages that the kernel would drop under pressure
};
constexpr CgroupFiles kV2{"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};
constexpr CgroupFiles kV1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};

/// The number after `key` at the start of a line ("MemTotal: 123 kB" with key "MemTotal:"); `missing` if there is none.
size_t read_row(const std::string& path, const std::string& key, size_t missing) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    size_t value = 0;
    if (words >> word && word == key && words >> value) return value;
  }
  return missing;
}

/// A file that holds one number; `missing` if it does not ("max").
size_t read_number(const std::string& path, size_t missing) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : missing;
}

/// Applies the limit of one cgroup directory.
void apply_cgroup(const std::string& directory, const CgroupFiles& files, MemoryInfo& info) {
  const size_t limit = read_number(directory + "/" + files.limit, std::numeric_limits<size_t>::max());
  if (limit >= info.total_bytes && limit >= info.available_bytes) return;
  const size_t usage = read_number(directory + "/" + files.usage, 0);
  const size_t held = usage - std::min(usage, read_row(directory + "/memory.stat", files.cache, 0));
  info.total_bytes = std::min(info.total_bytes, limit);
  info.available_bytes = std::min(info.available_bytes, limit - std::min(limit, held));
}

/// Applies `path` below the mount and all its ancestors. Inside a container the path may not exist there: the mount's root
/// still counts.
void apply_ancestors(const std::string& root, const CgroupFiles& files, std::string path, MemoryInfo& info) {
  while (true) {
    apply_cgroup(root + files.mount + path, files, info);
    const size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return;
    path.resize(slash);
  }
}

bool names_memory(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "memory") return true;
  }
  return false;
}

}  // namespace

std::string cpu_name(const std::string& root) {
  std::ifstream file(root + "/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

MemoryInfo read_memory(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  MemoryInfo info;
  info.total_bytes = read_row(meminfo, "MemTotal:", 0) * 1024;
  info.available_bytes = read_row(meminfo, "MemAvailable:", 0) * 1024;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) apply_ancestors(root, kV2, path == "/" ? "" : path, info);
    if (names_memory(controllers)) apply_ancestors(root, kV1, path == "/" ? "" : path, info);
  }
  return info;
}

}  // namespace pagoda::cpu

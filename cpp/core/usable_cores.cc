// Reads the affinity mask, the CPU topology and the cgroup CPU quota of Linux.
#include "core/usable_cores.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

namespace pagoda {
namespace {

std::optional<long long> read_number(const std::string& path) {
  std::ifstream file(path);
  long long value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// CPUs of the calling thread's affinity mask. The kernel refuses a mask that is too small, so the size grows until it fits.
std::vector<int> affinity_cpus() {
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(static_cast<size_t>(capacity)),
                                                               [](cpu_set_t* p) { CPU_FREE(p); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(capacity));
    if (!set) break;
    if (sched_getaffinity(0, bytes, set.get()) == 0) {
      std::vector<int> cpus;
      for (int cpu = 0; cpu < capacity; ++cpu) {
        if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set.get())) cpus.push_back(cpu);
      }
      return cpus;
    }
    if (errno != EINVAL) break;
  }
  std::vector<int> cpus(std::max(1u, std::thread::hardware_concurrency()));
  for (size_t i = 0; i < cpus.size(); ++i) cpus[i] = static_cast<int>(i);
  return cpus;
}

/// Whole CPUs granted by one cgroup directory, if it has a quota.
std::optional<long long> quota_of(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");  // v2: "<quota or max> <period>", in microseconds
  std::string quota;
  long long period = 0;
  if (file >> quota >> period) {
    if (quota == "max" || period <= 0) return std::nullopt;
    return std::strtoll(quota.c_str(), nullptr, 10) / period;
  }
  const auto v1_quota = read_number(directory + "/cpu.cfs_quota_us");
  const auto v1_period = read_number(directory + "/cpu.cfs_period_us");
  if (!v1_quota || !v1_period || *v1_quota < 0 || *v1_period <= 0) return std::nullopt;
  return *v1_quota / *v1_period;
}

bool names_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

/// The tightest quota on the way from this process's cgroups up to their roots. In a container the path in /proc/self/cgroup
/// may lie outside the mounted tree; its missing directories are passed over and the mounted root is still looked at.
std::optional<long long> cgroup_quota(const std::string& root) {
  std::optional<long long> tightest;
  std::ifstream groups(root + "/proc/self/cgroup");  // lines "id:controllers:path"; v2 has no controllers
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !names_cpu(controllers)) continue;
    const std::string mount = root + (controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu");
    std::string path = line.substr(second + 1);
    while (true) {
      const auto quota = quota_of(mount + path);
      if (quota && (!tightest || *quota < *tightest)) tightest = quota;
      if (path.empty()) break;
      const size_t slash = path.rfind('/');
      path.erase(slash == std::string::npos ? 0 : slash);
    }
  }
  return tightest;
}

}  // namespace

int count_usable_cores(const std::string& root, const std::vector<int>& cpus) {
  std::set<std::pair<long long, long long>> cores;
  for (int cpu : cpus) {
    const std::string topology = root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const auto package = read_number(topology + "physical_package_id");
    const auto core = read_number(topology + "core_id");
    if (package && core) {
      cores.emplace(*package, *core);
    } else {
      cores.emplace(-2, cpu);
    }
  }
  long long count = static_cast<long long>(cores.size());
  if (const auto quota = cgroup_quota(root)) count = std::min(count, *quota);
  return static_cast<int>(std::max(count, 1LL));
}

int usable_cores() { return count_usable_cores("", affinity_cpus()); }

}  // namespace pagoda

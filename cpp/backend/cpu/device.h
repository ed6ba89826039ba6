// What the operating system tells about this machine: the processor's name and the memory that this process may use.
// Called by CpuBackend and the memory planner through cpu_device_info.
#pragma once

#include <cstddef>
#include <string>

namespace pagoda::cpu {

/// The model name of the first processor, "unknown CPU" when the system does not tell. `root` is put before /proc.
std::string cpu_name(const std::string& root = "");

struct MemoryInfo {
  size_t total_bytes = 0;  ///< MemTotal, or the tightest cgroup limit if that is less
  size_t available_bytes =
      0;  ///< MemAvailable, or what the tightest cgroup has left if that is less; its file cache counts as free
};

/// Reads /proc/meminfo and the memory limits of this process's cgroup (v2 or v1) and its ancestors. `root` is put before /proc
/// and /sys.
MemoryInfo read_memory(const std::string& root = "");

}  // namespace pagoda::cpu

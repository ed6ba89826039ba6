// How many physical CPU cores this process may keep busy. Read once at start-up by whoever sizes a thread pool.
#pragma once

#include <string>
#include <vector>

namespace pagoda {

/// Physical cores this process may use, at least 1: the CPUs of its affinity mask counted once per (package, core), but not
/// more than the CPU quota of its cgroup (v2 `cpu.max` or v1 `cpu.cfs_quota_us`, the tightest up to the root) rounded down.
int usable_cores();

/// The same for given CPU numbers and a file tree that has `sys` and `proc` below `root` ("" is the real one).
/// A CPU whose topology cannot be read counts as a core of its own.
int count_usable_cores(const std::string& root, const std::vector<int>& cpus);

}  // namespace pagoda

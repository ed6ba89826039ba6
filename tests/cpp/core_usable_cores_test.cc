// Counting usable cores from affinity, topology and cgroup quota, on made-up /sys and /proc trees.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/usable_cores.h"

namespace pagoda {
namespace {

class UsableCores : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    root_ = testing::TempDir() + "usable_cores_" + test->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  void add_cpu(int cpu, int package, int core) {
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    write(topology + "physical_package_id", std::to_string(package) + "\n");
    write(topology + "core_id", std::to_string(core) + "\n");
  }
  /// Two packages of two cores with two hardware threads each: CPUs 0-7.
  void add_eight_cpus() {
    for (int cpu = 0; cpu < 8; ++cpu) add_cpu(cpu, cpu / 4, cpu % 2);
  }

  std::string root_;
  const std::vector<int> all_{0, 1, 2, 3, 4, 5, 6, 7};
};

TEST_F(UsableCores, hardware_threads_of_one_core_count_once) {
  add_eight_cpus();
  EXPECT_EQ(count_usable_cores(root_, all_), 4);
}

TEST_F(UsableCores, equal_core_ids_of_different_packages_are_different_cores) {
  add_eight_cpus();
  EXPECT_EQ(count_usable_cores(root_, {0, 4}), 2);
}

TEST_F(UsableCores, only_cpus_of_the_affinity_mask_count) {
  add_eight_cpus();
  EXPECT_EQ(count_usable_cores(root_, {0, 2}), 1);
}

TEST_F(UsableCores, a_v2_quota_is_rounded_down) {
  add_eight_cpus();
  write("/proc/self/cgroup", "0::/app\n");
  write("/sys/fs/cgroup/app/cpu.max", "290000 100000\n");
  EXPECT_EQ(count_usable_cores(root_, all_), 2);
}

TEST_F(UsableCores, a_quota_of_half_a_cpu_still_gives_one_core) {
  add_eight_cpus();
  write("/proc/self/cgroup", "0::/\n");
  write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(count_usable_cores(root_, all_), 1);
}

TEST_F(UsableCores, an_unlimited_quota_changes_nothing) {
  add_eight_cpus();
  write("/proc/self/cgroup", "0::/app\n");
  write("/sys/fs/cgroup/app/cpu.max", "max 100000\n");
  EXPECT_EQ(count_usable_cores(root_, all_), 4);
}

TEST_F(UsableCores, a_parent_cgroup_limits_too_even_when_the_own_directory_is_not_mounted) {
  add_eight_cpus();
  write("/proc/self/cgroup", "0::/slice/pod/box\n");
  write("/sys/fs/cgroup/slice/cpu.max", "300000 100000\n");
  EXPECT_EQ(count_usable_cores(root_, all_), 3);
}

TEST_F(UsableCores, a_v1_quota_counts) {
  add_eight_cpus();
  write("/proc/self/cgroup", "5:cpuset:/\n4:cpu,cpuacct:/docker/1\n");
  write("/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "200000\n");
  write("/sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(count_usable_cores(root_, all_), 2);
}

TEST_F(UsableCores, malformed_cgroup_lines_are_passed_over) {
  add_eight_cpus();
  write("/proc/self/cgroup", "nonsense\n0::no_slash\n:\n");
  EXPECT_EQ(count_usable_cores(root_, all_), 4);
}

TEST_F(UsableCores, without_topology_every_cpu_is_a_core_and_no_cpu_is_one) {
  EXPECT_EQ(count_usable_cores(root_, {3, 5, 9}), 3);
  EXPECT_EQ(count_usable_cores(root_, {}), 1);
}

TEST_F(UsableCores, this_machine_has_at_least_one) { EXPECT_GE(usable_cores(), 1); }

}  // namespace
}  // namespace pagoda

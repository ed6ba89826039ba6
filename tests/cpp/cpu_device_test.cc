// What the machine's memory is believed to be, from file trees as kernels and container runtimes lay them out.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "backend/cpu/device.h"

namespace pagoda::cpu {
namespace {

/// A root directory with /proc/meminfo: 8000 KiB in all, 6000 KiB available.
class DeviceFiles : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "pagoda_device_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
    write("/proc/meminfo", "MemTotal:           8000 kB\nMemFree:  10 kB\nMemAvailable:       6000 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void expect_kib(size_t total, size_t available) {
    const MemoryInfo info = read_memory(root_);
    EXPECT_EQ(info.total_bytes, total * 1024);
    EXPECT_EQ(info.available_bytes, available * 1024);
  }

  std::string root_;
};

TEST_F(DeviceFiles, without_a_cgroup_the_machine_is_the_limit) { expect_kib(8000, 6000); }

TEST_F(DeviceFiles, a_v2_limit_counts_with_its_reclaimable_cache) {
  write("/proc/self/cgroup", "0::/app\n");
  write("/sys/fs/cgroup/app/memory.max", "4096000\n");
  write("/sys/fs/cgroup/app/memory.current", "2048000\n");
  write("/sys/fs/cgroup/app/memory.stat", "anon 1\ninactive_file 1024000\n");
  expect_kib(4000, 3000);
}

TEST_F(DeviceFiles, the_tightest_ancestor_wins) {
  write("/proc/self/cgroup", "0::/slice/app\n");
  write("/sys/fs/cgroup/slice/app/memory.max", "max\n");
  write("/sys/fs/cgroup/slice/memory.max", "2048000\n");
  write("/sys/fs/cgroup/slice/memory.current", "1024000\n");
  expect_kib(2000, 1000);
}

TEST_F(DeviceFiles, a_container_that_sees_only_its_own_mount_is_limited_by_it) {
  write("/proc/self/cgroup", "0::/docker/0123\n");
  write("/sys/fs/cgroup/memory.max", "1024000\n");
  write("/sys/fs/cgroup/memory.current", "4096000\n");
  expect_kib(1000, 0);
}

TEST_F(DeviceFiles, a_v1_limit_counts) {
  write("/proc/self/cgroup", "4:cpu,memory:/app\n0::/\n");
  write("/sys/fs/cgroup/memory/app/memory.limit_in_bytes", "3072000\n");
  write("/sys/fs/cgroup/memory/app/memory.usage_in_bytes", "1024000\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  expect_kib(3000, 2000);
}

TEST_F(DeviceFiles, the_processor_is_named_after_its_first_core) {
  write("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU 9000\nmodel name\t: Other\n");
  EXPECT_EQ(cpu_name(root_), "Some CPU 9000");
  EXPECT_EQ(cpu_name(root_ + "/absent"), "unknown CPU");
}

}  // namespace
}  // namespace pagoda::cpu

// The CPU backend as an object: options, device facts, memory.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "core/usable_cores.h"
#include "cpu_support.h"

namespace pagoda {
namespace {

TEST(CpuBackend, options_the_machine_cannot_meet_are_refused) {
  EXPECT_THROW(make_cpu_backend({-1, "auto"}), InvalidArgument);
  EXPECT_THROW(make_cpu_backend({100000, "auto"}), InvalidArgument);
  EXPECT_THROW(make_cpu_backend({1, "neon"}), InvalidArgument);
  EXPECT_THROW(cpu_device_info({-1, "auto"}), InvalidArgument);
}

TEST(CpuBackend, the_device_tells_cores_isa_and_memory) {
  const DeviceInfo device = cpu_device_info({});
  EXPECT_EQ(device.num_threads, usable_cores());
  EXPECT_EQ(device.isa, cpu::isa_name(cpu::detect_isa()));
  EXPECT_FALSE(device.name.empty());
  EXPECT_GT(device.available_bytes, 0u);
  EXPECT_LE(device.available_bytes, device.total_bytes);
  EXPECT_EQ(make_cpu_backend({3, "portable"})->device().num_threads, 3);
}

TEST(CpuBackend, allocations_are_aligned_and_round_trip) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{1} << 20, (size_t{5} << 20) + 3}) {
    const Buffer buffer = backend->allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.get()) % 64, 0u) << bytes;
    const std::vector<char> sent(bytes, 'x');
    std::vector<char> received(bytes);
    backend->upload(buffer.get(), sent.data(), bytes);
    backend->download(received.data(), buffer.get(), bytes);
    EXPECT_EQ(sent, received);
  }
}

#if defined(MADV_POPULATE_WRITE)
TEST(CpuBackend, memory_becomes_resident_without_being_changed) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({2, "auto"});
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  constexpr size_t kBytes = size_t{9} << 20;
  const Buffer buffer = backend->allocate(kBytes);
  char* data = static_cast<char*>(buffer.get());
  const auto num_resident = [&](size_t bytes) {
    std::vector<unsigned char> pages(bytes / page);
    EXPECT_EQ(mincore(data, bytes, pages.data()), 0);
    return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char flags) { return flags & 1; }));
  };
  ASSERT_EQ(reinterpret_cast<uintptr_t>(data) % page, 0u);
  EXPECT_LT(num_resident(kBytes), kBytes / page);
  std::memset(data, 7, page);
  if (madvise(data, page, MADV_POPULATE_WRITE) != 0) GTEST_SKIP() << "the kernel cannot populate";
  backend->make_resident(data, kBytes - 3 * page - 1);
  EXPECT_EQ(num_resident(kBytes - 4 * page), kBytes / page - 4);
  EXPECT_TRUE(std::all_of(data, data + page, [](char byte) { return byte == 7; }));
  EXPECT_EQ(data[page], 0);
  backend->make_resident(data + 1, 5);
  backend->make_resident(data, 0);
}
#endif

TEST(CpuBackend, an_allocation_beyond_the_machine_names_its_size) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  try {
    backend->allocate(size_t{1} << 60);
    FAIL() << "an exabyte was allocated";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("1152921504606846976 bytes"), std::string::npos) << error.what();
  }
}

TEST(CpuBackend, blocks_move_to_the_host_and_back_and_among_themselves) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({2, "auto"});
  constexpr size_t kBlockInts = 8, kBlockBytes = kBlockInts * sizeof(int);
  std::vector<int> a(5 * kBlockInts), b(5 * kBlockInts);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<int>(i / kBlockInts), b[i] = 10 + a[i];
  const Buffer host = backend->allocate_host(6 * kBlockBytes);
  int* const far_a = static_cast<int*>(host.get());
  int* const far_b = far_a + 3 * kBlockInts;
  const std::vector<BlockPools> out = {{far_a, a.data()}, {far_b, b.data()}}, in = {{a.data(), far_a}, {b.data(), far_b}},
                                within = {{a.data(), a.data()}, {b.data(), b.data()}};
  const std::vector<BlockCopy> first = {{1, 2}, {4, 0}}, second = {{2, 0}, {0, 3}}, third = {{0, 2}};
  backend->copy_blocks(out, kBlockBytes, first);
  backend->copy_blocks(in, kBlockBytes, second);
  backend->copy_blocks(within, kBlockBytes, third);
  backend->copy_blocks(within, kBlockBytes, {});
  const std::vector<int> expected = {1, 1, 1, 4, 4};
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i], expected[i / kBlockInts]);
    EXPECT_EQ(b[i], 10 + expected[i / kBlockInts]);
  }
}

TEST(CpuBackend, a_captured_body_runs_every_time) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  int runs = 0;
  for (int i = 0; i < 3; ++i) backend->run_captured(1, [&] { ++runs; });
  EXPECT_EQ(runs, 3);
}

}  // namespace
}  // namespace pagoda

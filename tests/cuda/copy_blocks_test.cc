// Copies of blocks: every byte of the named blocks and no other.
#include <algorithm>
#include <numeric>

#include "cuda/kernels.h"
#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

using Pool = std::vector<uint4>;

Pool random_pool(size_t bytes, std::mt19937& random) {
  Pool pool(bytes / sizeof(uint4));
  const auto word = [&] { return static_cast<unsigned>(random()); };
  for (uint4& v : pool) v = {word(), word(), word(), word()};
  return pool;
}

bool equal(const Pool& a, const Pool& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(uint4)) == 0; }

/// `n` copies to different blocks; sources may repeat.
std::vector<BlockCopy> random_copies(int n, int num_blocks, std::mt19937& random) {
  std::vector<int32_t> targets(static_cast<size_t>(num_blocks));
  std::iota(targets.begin(), targets.end(), 0);
  std::shuffle(targets.begin(), targets.end(), random);
  std::vector<BlockCopy> copies;
  for (int i = 0; i < n; ++i) {
    copies.push_back({static_cast<int32_t>(random() % static_cast<unsigned>(num_blocks)), targets[static_cast<size_t>(i)]});
  }
  return copies;
}

void copy_on_host(Pool& to, const Pool& from, size_t block_bytes, const std::vector<BlockCopy>& copies) {
  const size_t vectors = block_bytes / sizeof(uint4);
  for (const BlockCopy& copy : copies) {
    std::memcpy(to.data() + static_cast<size_t>(copy.to) * vectors, from.data() + static_cast<size_t>(copy.from) * vectors,
                block_bytes);
  }
}

TEST(CopyBlocks, copies_the_named_blocks_and_nothing_else) {
  std::mt19937 random(1);
  constexpr int kBlocks = 9;
  for (size_t block_bytes : {16u, 48u, 4096u, 16384u, 16400u, 40000u}) {
    for (int n : {1, 2, 7}) {
      const Pool from = random_pool(kBlocks * block_bytes, random), before = random_pool(kBlocks * block_bytes, random);
      const std::vector<BlockCopy> copies = random_copies(n, kBlocks, random);
      Pool expected = before;
      copy_on_host(expected, from, block_bytes, copies);
      for (unsigned seed : kSchedules) {
        const ScheduleScope scope(seed);
        Pool to = before;
        copy_blocks(test_queue(), to.data(), from.data(), block_bytes, copies.data(), n);
        synchronize();
        ASSERT_TRUE(equal(to, expected)) << n << " blocks of " << block_bytes << ", schedule " << seed;
      }
    }
  }
}

TEST(CopyBlocks, copies_within_one_pool) {
  std::mt19937 random(2);
  constexpr size_t kBytes = 20000;
  Pool pool = random_pool(8 * kBytes, random), expected = pool;
  const std::vector<BlockCopy> copies = {{0, 5}, {1, 4}, {0, 7}, {2, 6}};
  copy_on_host(expected, pool, kBytes, copies);
  copy_blocks(test_queue(), pool.data(), pool.data(), kBytes, copies.data(), 4);
  synchronize();
  EXPECT_TRUE(equal(pool, expected));
}

TEST(CopyBlocks, no_copies_are_no_launch) {
  Pool pool(4);
  const uint64_t before = emu::num_launches();
  copy_blocks(test_queue(), pool.data(), pool.data(), 16, nullptr, 0);
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

}  // namespace
}  // namespace pagoda::cuda

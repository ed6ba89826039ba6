// The 128-bit hash: avalanche, lengths, chaining, absence of collisions on inputs like ours.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/hash.h"

namespace pagoda {
namespace {

int differing_bits(Hash128 a, Hash128 b) { return std::popcount(a.hi ^ b.hi) + std::popcount(a.lo ^ b.lo); }

TEST(Hash, is_the_same_for_equal_content_at_any_alignment) {
  const std::string text = "the quick brown fox jumps over the lazy dog";
  std::vector<char> buffer(text.size() + 16);
  const Hash128 expected = hash_bytes(text.data(), text.size(), {1, 2});
  for (size_t offset = 0; offset < 16; ++offset) {
    std::copy(text.begin(), text.end(), buffer.begin() + static_cast<std::ptrdiff_t>(offset));
    EXPECT_EQ(hash_bytes(buffer.data() + offset, text.size(), {1, 2}), expected);
  }
}

TEST(Hash, every_input_and_seed_bit_flips_about_half_of_the_output) {
  for (size_t size : {1, 4, 15, 16, 17, 64, 100}) {
    std::vector<unsigned char> data(size, 0);
    const Hash128 base = hash_bytes(data.data(), size, {});
    for (size_t bit = 0; bit < 8 * size; ++bit) {
      data[bit / 8] = static_cast<unsigned char>(1u << (bit % 8));
      EXPECT_NEAR(differing_bits(base, hash_bytes(data.data(), size, {})), 64, 32) << size << " bytes, bit " << bit;
      data[bit / 8] = 0;
    }
    for (int bit = 0; bit < 64; ++bit) {
      EXPECT_NEAR(differing_bits(base, hash_bytes(data.data(), size, {uint64_t{1} << bit, 0})), 64, 32);
      EXPECT_NEAR(differing_bits(base, hash_bytes(data.data(), size, {0, uint64_t{1} << bit})), 64, 32);
    }
  }
}

TEST(Hash, every_output_bit_is_balanced) {
  constexpr int kInputs = 4096;
  std::vector<int> ones(128, 0);
  for (int32_t token = 0; token < kInputs; ++token) {
    const Hash128 hash = hash_tokens({}, std::span(&token, 1));
    for (int bit = 0; bit < 64; ++bit) {
      ones[static_cast<size_t>(bit)] += static_cast<int>(hash.lo >> bit & 1);
      ones[static_cast<size_t>(64 + bit)] += static_cast<int>(hash.hi >> bit & 1);
    }
  }
  for (int count : ones) EXPECT_NEAR(count, kInputs / 2, 5 * 32);  // five standard deviations
}

TEST(Hash, runs_of_zeros_of_different_lengths_differ) {
  const std::vector<unsigned char> zeros(200, 0);
  std::unordered_set<Hash128> seen;
  for (size_t size = 0; size <= zeros.size(); ++size)
    EXPECT_TRUE(seen.insert(hash_bytes(zeros.data(), size, {})).second) << size;
}

TEST(Hash, empty_input_hashes_by_its_seed) {
  EXPECT_EQ(hash_bytes(nullptr, 0, {7, 8}), hash_bytes("x", 0, {7, 8}));
  EXPECT_NE(hash_bytes(nullptr, 0, {7, 8}), hash_bytes(nullptr, 0, {8, 7}));
}

TEST(Hash, half_a_hash_does_not_collide_on_blocks_of_small_tokens) {
  std::unordered_set<uint64_t> low;
  std::unordered_set<uint64_t> high;
  size_t count = 0;
  for (int32_t a = 0; a < 300; ++a) {
    for (int32_t b = 0; b < 300; ++b, ++count) {
      std::vector<int32_t> block(16, a);
      block[15] = b;
      const Hash128 hash = hash_tokens({}, block);
      low.insert(hash.lo);
      high.insert(hash.hi);
    }
  }
  EXPECT_EQ(low.size(), count);  // 90,000 values of 64 bits: an accident has a chance below 1e-9
  EXPECT_EQ(high.size(), count);
}

TEST(Hash, a_chain_depends_on_order_and_on_where_it_is_cut) {
  const std::vector<int32_t> first{1, 2, 3, 4};
  const std::vector<int32_t> second{5, 6, 7, 8};
  const std::vector<int32_t> both{1, 2, 3, 4, 5, 6, 7, 8};
  const Hash128 forward = hash_tokens(hash_tokens({}, first), second);
  EXPECT_NE(forward, hash_tokens(hash_tokens({}, second), first));
  EXPECT_NE(forward, hash_tokens({}, both));
  EXPECT_EQ(forward, hash_tokens(hash_tokens({}, first), second));
}

TEST(Hash, standard_hash_spreads_over_low_bits) {
  std::vector<int> buckets(256, 0);
  for (int32_t token = 0; token < 256 * 64; ++token) {
    ++buckets[std::hash<Hash128>{}(hash_tokens({}, std::span(&token, 1))) % buckets.size()];
  }
  for (int count : buckets) EXPECT_NEAR(count, 64, 45);
}

}  // namespace
}  // namespace pagoda

// BlockPool: who gets which block next, what stays findable, and what a hit means.
#include <gtest/gtest.h>

#include <random>

#include "core/check.h"
#include "kv/block_pool.h"

namespace pagoda {
namespace {

using Tokens = std::vector<int32_t>;

Hash128 constant_hash(Hash128, std::span<const int32_t>) { return {1, 1}; }

TEST(BlockPool, hands_out_every_block_once_and_then_none) {
  BlockPool pool(3, 2);
  EXPECT_EQ(pool.allocate(), 0);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.allocate(), 2);
  EXPECT_EQ(pool.allocate(), std::nullopt);
  EXPECT_EQ(pool.num_free(), 0);
  pool.check_integrity();
}

TEST(BlockPool, refuses_sizes_that_make_no_sense) {
  EXPECT_THROW(BlockPool(0, 16), InvalidArgument);
  EXPECT_THROW(BlockPool(int64_t{1} << 31, 16), InvalidArgument);
  EXPECT_THROW(BlockPool(4, 0), InvalidArgument);
}

TEST(BlockPool, releasing_a_shared_block_keeps_it_alive) {
  BlockPool pool(2, 2);
  const BlockId block = *pool.allocate();
  pool.retain(block);
  pool.release(block);
  EXPECT_EQ(pool.ref_count(block), 1);
  EXPECT_EQ(pool.num_free(), 1);
  pool.release(block);
  EXPECT_EQ(pool.num_free(), 2);
  pool.check_integrity();
}

TEST(BlockPool, releasing_a_block_twice_is_an_internal_error) {
  BlockPool pool(2, 2);
  const BlockId block = *pool.allocate();
  pool.release(block);
  EXPECT_THROW(pool.release(block), InternalError);
  EXPECT_THROW(pool.release(2), InternalError);
  EXPECT_THROW(pool.release(-1), InternalError);
}

TEST(BlockPool, reuses_blocks_without_content_before_touching_new_ones) {
  BlockPool pool(100, 2);
  const BlockId a = *pool.allocate(), b = *pool.allocate();
  pool.release(b);
  pool.release(a);
  EXPECT_EQ(pool.allocate(), a);
  EXPECT_EQ(pool.allocate(), b);
  EXPECT_EQ(pool.allocate(), 2);
}

TEST(BlockPool, evicts_the_least_recently_used_content_last_of_all) {
  BlockPool pool(3, 1);
  const BlockId a = *pool.allocate(), b = *pool.allocate();
  pool.publish(a, {}, Tokens{1}, "");
  pool.publish(b, {}, Tokens{2}, "");
  pool.release(a);
  pool.release(b);
  pool.retain(a);  // a hit makes it recent
  pool.release(a);
  EXPECT_EQ(pool.allocate(), 2);  // never used
  EXPECT_EQ(pool.find({}, Tokens{1}, ""), a);
  EXPECT_EQ(pool.allocate(), b);
  EXPECT_EQ(pool.find({}, Tokens{2}, ""), std::nullopt);
  EXPECT_EQ(pool.find({}, Tokens{1}, ""), a);
  EXPECT_EQ(pool.allocate(), a);
  EXPECT_EQ(pool.find({}, Tokens{1}, ""), std::nullopt);
  pool.check_integrity();
}

TEST(BlockPool, finds_a_block_only_by_its_tokens_parent_and_salt) {
  BlockPool pool(4, 2);
  const BlockId first = *pool.allocate(), second = *pool.allocate();
  const Content root = pool.publish(first, {}, Tokens{1, 2}, "salt");
  pool.publish(second, root, Tokens{3, 4}, "salt");
  EXPECT_EQ(pool.find({}, Tokens{1, 2}, "salt"), first);
  EXPECT_EQ(pool.find({}, Tokens{1, 2}, ""), std::nullopt);
  EXPECT_EQ(pool.find({}, Tokens{1, 2}, "other"), std::nullopt);
  EXPECT_EQ(pool.find({}, Tokens{1, 3}, "salt"), std::nullopt);
  EXPECT_EQ(pool.find(root, Tokens{3, 4}, "salt"), second);
  EXPECT_EQ(pool.find({}, Tokens{3, 4}, "salt"), std::nullopt);
  EXPECT_EQ(pool.find(root, Tokens{1, 2}, "salt"), std::nullopt);
  pool.check_integrity();
}

TEST(BlockPool, a_hash_that_always_collides_is_harmless) {
  BlockPool pool(6, 1, {constant_hash, {}});
  std::vector<Content> contents;
  for (int32_t token = 0; token < 3; ++token) contents.push_back(pool.publish(*pool.allocate(), {}, Tokens{token}, ""));
  pool.publish(*pool.allocate(), contents[0], Tokens{7}, "");
  pool.publish(*pool.allocate(), {}, Tokens{0}, "salt");
  pool.check_integrity();
  EXPECT_EQ(pool.find({}, Tokens{0}, ""), 0);
  EXPECT_EQ(pool.find({}, Tokens{2}, ""), 2);
  EXPECT_EQ(pool.find({}, Tokens{3}, ""), std::nullopt);
  EXPECT_EQ(pool.find(contents[0], Tokens{7}, ""), 3);
  EXPECT_EQ(pool.find(contents[1], Tokens{7}, ""), std::nullopt);
  EXPECT_EQ(pool.find({}, Tokens{0}, "salt"), 4);
  pool.unpublish(1);
  pool.check_integrity();
  EXPECT_EQ(pool.find({}, Tokens{0}, ""), 0);
  EXPECT_EQ(pool.find({}, Tokens{1}, ""), std::nullopt);
}

TEST(BlockPool, the_first_of_two_equal_blocks_is_the_findable_one) {
  BlockPool pool(2, 1);
  const BlockId a = *pool.allocate(), b = *pool.allocate();
  const Content first = pool.publish(a, {}, Tokens{5}, "");
  const Content second = pool.publish(b, {}, Tokens{5}, "");
  EXPECT_EQ(first.id, second.id);
  EXPECT_EQ(pool.content(b).id, 0u);
  EXPECT_EQ(pool.find({}, Tokens{5}, ""), a);
  EXPECT_EQ(pool.num_published(), 1);
}

TEST(BlockPool, a_child_is_not_found_after_its_parent_was_evicted_and_written_again) {
  BlockPool pool(2, 1);
  const BlockId parent = *pool.allocate(), child = *pool.allocate();
  const Content before = pool.publish(parent, {}, Tokens{1}, "");
  pool.publish(child, before, Tokens{2}, "");
  pool.release(parent);
  const BlockId again = *pool.allocate();
  EXPECT_EQ(again, parent);
  const Content after = pool.publish(again, {}, Tokens{9}, "");
  EXPECT_EQ(pool.find(after, Tokens{2}, ""), std::nullopt);
  pool.check_integrity();
}

TEST(BlockPool, unpublishing_a_free_block_makes_it_the_next_to_be_used) {
  BlockPool pool(3, 1);
  const BlockId a = *pool.allocate();
  pool.publish(a, {}, Tokens{1}, "");
  pool.release(a);
  pool.unpublish(a);
  pool.unpublish(a);
  EXPECT_EQ(pool.find({}, Tokens{1}, ""), std::nullopt);
  EXPECT_EQ(pool.num_published(), 0);
  EXPECT_EQ(pool.allocate(), a);
  pool.check_integrity();
}

TEST(BlockPool, publishing_twice_or_while_free_or_a_part_is_an_internal_error) {
  BlockPool pool(2, 2);
  EXPECT_THROW(pool.publish(0, {}, Tokens{1, 2}, ""), InternalError);
  const BlockId block = *pool.allocate();
  EXPECT_THROW(pool.publish(block, {}, Tokens{1}, ""), InternalError);
  pool.publish(block, {}, Tokens{1, 2}, "");
  EXPECT_THROW(pool.publish(block, {}, Tokens{1, 2}, ""), InternalError);
}

TEST(BlockPool, an_injected_failure_changes_nothing) {
  bool fail = true;
  BlockPool pool(2, 1, {hash_tokens, [&] { return fail; }});
  EXPECT_EQ(pool.allocate(), std::nullopt);
  EXPECT_EQ(pool.num_free(), 2);
  fail = false;
  EXPECT_EQ(pool.allocate(), 0);
}

/// Model of the pool: references only; content is checked through find.
TEST(BlockPool, keeps_its_integrity_over_a_long_random_walk) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
    const int64_t num_blocks = 1 + static_cast<int64_t>(pick(24));
    BlockPool pool(num_blocks, 2, {seed % 2 ? constant_hash : hash_tokens, {}});
    std::vector<BlockId> held;
    for (int i = 0; i < 2000; ++i) {
      const size_t action = pick(6);
      if (action <= 1) {
        if (const auto block = pool.allocate()) held.push_back(*block);
      } else if (action == 2 && !held.empty()) {
        const size_t index = pick(held.size());
        pool.release(held[index]);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
      } else if (action == 3 && !held.empty()) {
        const BlockId block = held[pick(held.size())], parent = held[pick(held.size())];
        const Tokens tokens{static_cast<int32_t>(pick(3)), static_cast<int32_t>(pick(3))};
        if (pool.content(block).id == 0) {
          const Content content = pool.publish(block, pool.content(parent), tokens, pick(2) ? "a" : "b");
          ASSERT_NE(content.id, 0u);
        }
      } else if (action == 4) {
        const Tokens tokens{static_cast<int32_t>(pick(3)), static_cast<int32_t>(pick(3))};
        if (const auto block = pool.find({}, tokens, "a")) {
          pool.retain(*block);
          held.push_back(*block);
        }
      } else if (action == 5) {
        pool.unpublish(static_cast<BlockId>(pick(static_cast<size_t>(num_blocks))));
      }
      pool.check_integrity();
      for (BlockId block = 0; block < num_blocks; ++block) {
        ASSERT_EQ(pool.ref_count(block), std::count(held.begin(), held.end(), block));
      }
    }
  }
}

}  // namespace
}  // namespace pagoda

// KvManager: tables grow all or nothing, share exact prefixes only, and give everything back.
#include "kv/kv_manager.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/check.h"

namespace pagoda {
namespace {

using Tokens = std::vector<int32_t>;

Tokens iota(int32_t count, int32_t first = 0) {
  Tokens tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

/// A table with all of `tokens` computed and published.
BlockTable computed(KvManager& kv, const Tokens& tokens, std::string_view salt = "") {
  BlockTable table = kv.match_prefix(tokens, salt, std::ssize(tokens) - 1);
  EXPECT_TRUE(kv.reserve(table, std::ssize(tokens)));
  kv.publish(table, tokens, std::ssize(tokens), salt);
  return table;
}

void check(const KvManager& kv, std::initializer_list<const BlockTable*> tables) {
  const std::vector<const BlockTable*> list(tables);
  kv.check_integrity(list);
}

TEST(KvManager, reserves_the_blocks_that_tokens_need) {
  KvManager kv(4, 4, true);
  BlockTable table;
  EXPECT_TRUE(kv.reserve(table, 1));
  EXPECT_EQ(table.blocks.size(), 1u);
  EXPECT_TRUE(kv.reserve(table, 4));
  EXPECT_EQ(table.blocks.size(), 1u);
  EXPECT_TRUE(kv.reserve(table, 5));
  EXPECT_EQ(table.blocks.size(), 2u);
  EXPECT_TRUE(kv.reserve(table, 16));
  EXPECT_EQ(kv.num_free(), 0);
  check(kv, {&table});
  kv.release(table);
  EXPECT_EQ(kv.num_free(), 4);
  check(kv, {});
}

TEST(KvManager, a_reservation_that_does_not_fit_changes_nothing) {
  KvManager kv(4, 4, true);
  BlockTable a, b;
  ASSERT_TRUE(kv.reserve(a, 8));
  ASSERT_TRUE(kv.reserve(b, 4));
  EXPECT_FALSE(kv.reserve(b, 13));
  EXPECT_EQ(b.blocks.size(), 1u);
  EXPECT_EQ(kv.num_free(), 1);
  check(kv, {&a, &b});
}

TEST(KvManager, a_reservation_interrupted_by_a_failure_changes_nothing) {
  int calls = 0;
  KvManager kv(8, 1, true, {hash_tokens, [&] { return ++calls == 3; }});
  BlockTable table;
  EXPECT_FALSE(kv.reserve(table, 4));
  EXPECT_TRUE(table.blocks.empty());
  EXPECT_EQ(kv.num_free(), 8);
  check(kv, {&table});
  EXPECT_TRUE(kv.reserve(table, 4));
}

TEST(KvManager, shares_the_longest_common_beginning_in_whole_blocks) {
  KvManager kv(16, 4, true);
  const BlockTable a = computed(kv, iota(16));
  Tokens other = iota(16);
  other[9] = 99;
  BlockTable b = kv.match_prefix(other, "", 15);
  EXPECT_EQ(b.blocks, std::vector<BlockId>(a.blocks.begin(), a.blocks.begin() + 2));
  EXPECT_EQ(b.num_published, 2);
  check(kv, {&a, &b});
}

TEST(KvManager, a_match_covers_at_most_the_tokens_allowed) {
  KvManager kv(16, 4, true);
  const BlockTable a = computed(kv, iota(16));
  const auto matched = [&](int64_t max_tokens) {
    BlockTable table = kv.match_prefix(iota(16), "", max_tokens);
    const size_t count = table.blocks.size();
    kv.release(table);
    return count;
  };
  EXPECT_EQ(matched(16), 4u);
  EXPECT_EQ(matched(15), 3u);
  EXPECT_EQ(matched(3), 0u);
  EXPECT_EQ(matched(0), 0u);
  EXPECT_EQ(matched(-1), 0u);
  check(kv, {&a});
}

TEST(KvManager, two_salts_never_share) {
  KvManager kv(16, 4, true);
  const BlockTable a = computed(kv, iota(8), "alice");
  BlockTable b = kv.match_prefix(iota(8), "bob", 8);
  EXPECT_TRUE(b.blocks.empty());
  BlockTable c = kv.match_prefix(iota(8), "alice", 8);
  EXPECT_EQ(c.blocks, a.blocks);
  check(kv, {&a, &b, &c});
}

TEST(KvManager, finds_released_blocks_until_they_are_reused) {
  KvManager kv(4, 4, true);
  BlockTable a = computed(kv, iota(16));
  kv.release(a);
  BlockTable b;
  ASSERT_TRUE(kv.reserve(b, 4));  // evicts the end of the text, not its beginning
  BlockTable again = kv.match_prefix(iota(16), "", 16);
  EXPECT_EQ(again.blocks.size(), 3u);
  check(kv, {&b, &again});
}

TEST(KvManager, a_trimmed_table_keeps_what_its_tokens_need) {
  KvManager kv(8, 4, true);
  BlockTable a = computed(kv, iota(8));
  ASSERT_TRUE(kv.reserve(a, 20));
  const std::vector<BlockId> blocks = a.blocks;
  kv.trim(a, 9);
  EXPECT_EQ(a.blocks, (std::vector<BlockId>{blocks[0], blocks[1], blocks[2]}));
  EXPECT_EQ(kv.num_free(), 5);
  kv.trim(a, 12);
  EXPECT_EQ(a.blocks.size(), 3u) << "it never grows";
  check(kv, {&a});
  EXPECT_THROW(kv.trim(a, 4), InternalError) << "the second block is published";
}

TEST(KvManager, publishes_only_full_blocks) {
  KvManager kv(4, 4, true);
  BlockTable a;
  ASSERT_TRUE(kv.reserve(a, 12));
  kv.publish(a, iota(12), 7, "");
  EXPECT_EQ(a.num_published, 1);
  EXPECT_EQ(kv.match_prefix(iota(12), "", 12).blocks.size(), 1u);
}

TEST(KvManager, a_twin_of_a_cached_block_continues_the_cached_chain) {
  KvManager kv(16, 4, true);
  BlockTable a = computed(kv, iota(8));
  BlockTable twin = kv.match_prefix(iota(12), "", 3);  // nothing matched: computes the same blocks again
  ASSERT_TRUE(kv.reserve(twin, 12));
  kv.publish(twin, iota(12), 12, "");
  EXPECT_EQ(twin.num_published, 3);
  const BlockTable reader = kv.match_prefix(iota(12), "", 12);
  EXPECT_EQ(reader.blocks, (std::vector<BlockId>{a.blocks[0], a.blocks[1], twin.blocks[2]}));
  check(kv, {&a, &twin, &reader});
}

TEST(KvManager, discarded_blocks_are_not_found_again) {
  KvManager kv(16, 4, true);
  BlockTable a = computed(kv, iota(8));
  const BlockTable sharer = kv.match_prefix(iota(8), "", 4);
  kv.discard(a);
  EXPECT_TRUE(kv.match_prefix(iota(8), "", 8).blocks.empty());
  check(kv, {&sharer});
}

TEST(KvManager, without_the_cache_nothing_is_ever_shared) {
  KvManager kv(16, 4, false);
  BlockTable a = computed(kv, iota(8));
  EXPECT_EQ(a.num_published, 2) << "full blocks are immutable all the same";
  EXPECT_TRUE(kv.match_prefix(iota(8), "", 8).blocks.empty());
  check(kv, {&a});
}

TEST(KvManager, without_the_cache_full_blocks_can_be_shared_by_hand) {
  KvManager kv(16, 4, false);
  BlockTable a = computed(kv, iota(10));
  BlockTable b = kv.share(a, 2);
  EXPECT_EQ(b.blocks, std::vector<BlockId>(a.blocks.begin(), a.blocks.begin() + 2));
  ASSERT_TRUE(kv.reserve(b, 10));
  check(kv, {&a, &b});
  EXPECT_NE(a.blocks[2], b.blocks[2]);
  EXPECT_THROW(kv.share(a, 3), InternalError) << "the third block is still written to";
  kv.release(a);
  check(kv, {&b});
  kv.release(b);
  EXPECT_EQ(kv.num_free(), 16);
}

TEST(KvManager, what_is_forgotten_is_not_found_and_stays_with_who_holds_it) {
  KvManager kv(16, 4, true);
  BlockTable a = computed(kv, iota(8)), b = computed(kv, iota(12));
  kv.release(b);
  kv.forget();
  EXPECT_TRUE(kv.match_prefix(iota(12), "", 12).blocks.empty());
  check(kv, {&a});
  EXPECT_EQ(kv.num_free(), 14);
  BlockTable c = computed(kv, iota(8));
  BlockTable d = kv.match_prefix(iota(8), "", 8);
  EXPECT_EQ(d.blocks, c.blocks);
  check(kv, {&a, &c, &d});
}

TEST(KvManager, refuses_more_tokens_than_a_slot_number_can_name) {
  EXPECT_THROW(KvManager((int64_t{1} << 30), 2, true), InvalidArgument);
}

TEST(KvManager, integrity_check_sees_a_table_that_was_forgotten) {
  KvManager kv(4, 4, true);
  BlockTable a;
  ASSERT_TRUE(kv.reserve(a, 4));
  EXPECT_THROW(check(kv, {}), InternalError);
  EXPECT_THROW(check(kv, {&a, &a}), InternalError);
  check(kv, {&a});
}

}  // namespace
}  // namespace pagoda

// Which sequences of a step are found to begin with the same blocks, and how far.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "backend/cpu/attention_prefix.h"

namespace pagoda::cpu {
namespace {

/// One sequence: its blocks of 16 tokens, its first query's position and the number of its queries.
struct Sequence {
  std::vector<int32_t> blocks;
  int32_t position;
  int32_t queries = 1;
};

/// `first` blocks from `begin` on, then some of the sequence's own.
std::vector<int32_t> blocks_of(int32_t begin, size_t count, int32_t own, size_t own_count) {
  std::vector<int32_t> blocks(count + own_count);
  std::iota(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(count), begin);
  std::iota(blocks.begin() + static_cast<std::ptrdiff_t>(count), blocks.end(), own);
  return blocks;
}

class Plan {
 public:
  explicit Plan(const std::vector<Sequence>& sequences, int num_heads = 6, int window = 0) {
    constexpr int kMaxBlocks = 128;
    std::vector<int32_t> positions, start{0}, table(sequences.size() * kMaxBlocks, -1);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const Sequence& sequence = sequences[s];
      for (int32_t i = 0; i < sequence.queries; ++i) positions.push_back(sequence.position + i);
      start.push_back(static_cast<int32_t>(positions.size()));
      std::copy(sequence.blocks.begin(), sequence.blocks.end(), table.begin() + static_cast<std::ptrdiff_t>(s) * kMaxBlocks);
      job_.batch.max_kv_len = std::max(job_.batch.max_kv_len, sequence.position + sequence.queries);
    }
    job_.args.num_heads = num_heads;
    job_.args.kv_heads = 2;
    job_.args.window = window;
    job_.batch.num_tokens = static_cast<int>(positions.size());
    job_.batch.num_seqs = static_cast<int>(sequences.size());
    job_.batch.max_blocks = kMaxBlocks;
    job_.batch.block_size = 16;
    job_.batch.positions = positions.data();
    job_.batch.query_start = start.data();
    job_.batch.block_table = table.data();
    const auto count = static_cast<size_t>(std::min<int64_t>(job_.batch.num_tokens, kMaxPrefixTokens));
    prefixes_.resize(count), members_.resize(count), tokens_.resize(count);
    PrefixPlan plan{prefixes_.data(), members_.data(), tokens_.data(), 0, 0, 0};
    plan_prefixes(job_, plan);
    prefixes_.resize(static_cast<size_t>(plan.num_prefixes));
    members_.resize(static_cast<size_t>(plan.num_members));
    tokens_.resize(static_cast<size_t>(plan.num_tokens));
  }

  /// Partitions that each prefix has, in order.
  std::vector<int32_t> parts() const {
    std::vector<int32_t> parts;
    for (const SharedPrefix& prefix : prefixes_) parts.push_back(prefix.parts);
    return parts;
  }
  std::vector<int32_t> members() const {
    std::vector<int32_t> seqs;
    for (const PrefixMember& member : members_) seqs.push_back(member.seq);
    return seqs;
  }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  /// Where the tokens of a member begin.
  int32_t first_token(size_t member) const { return tokens_[static_cast<size_t>(members_[member].token_begin)]; }

 private:
  AttentionJob job_;
  std::vector<SharedPrefix> prefixes_;
  std::vector<PrefixMember> members_;
  std::vector<int32_t> tokens_;
};

using Ints = std::vector<int32_t>;

TEST(CpuAttentionPrefix, whole_partitions_that_all_see_are_shared) {
  const Plan plan(
      {{blocks_of(100, 40, 200, 10), 700}, {blocks_of(900, 50, 0, 0), 790}, {blocks_of(100, 40, 300, 24), 1000, 3}});
  EXPECT_EQ(plan.parts(), Ints{2});  // 640 tokens
  EXPECT_EQ(plan.members(), (Ints{0, 2}));
  Ints tokens = plan.tokens();  // in the order of the contexts
  std::sort(tokens.begin(), tokens.end());
  EXPECT_EQ(tokens, (Ints{0, 2, 3, 4}));
}

TEST(CpuAttentionPrefix, a_query_within_the_shared_blocks_bounds_them) {
  const auto parts_at = [](int32_t position) {
    return Plan({{blocks_of(0, 64, 200, 2), 1030}, {blocks_of(0, 64, 0, 0), position}}).parts();
  };
  EXPECT_EQ(parts_at(1023), Ints{4});
  EXPECT_EQ(parts_at(1022), Ints{3});
  EXPECT_EQ(parts_at(255), Ints{1});
  EXPECT_EQ(parts_at(254), Ints{});
}

TEST(CpuAttentionPrefix, less_than_a_partition_is_not_shared) {
  EXPECT_EQ(Plan({{blocks_of(0, 15, 200, 20), 500}, {blocks_of(0, 15, 300, 20), 500}}).parts(), Ints{});
  EXPECT_EQ(Plan({{blocks_of(0, 16, 200, 20), 500}, {blocks_of(0, 16, 300, 20), 500}}).parts(), Ints{1});
}

TEST(CpuAttentionPrefix, a_block_in_common_behind_others_is_not_shared) {
  Sequence other{blocks_of(0, 64, 0, 0), 1000};
  other.blocks[3] = 700;
  EXPECT_EQ(Plan({{blocks_of(0, 64, 0, 0), 1000}, other}).parts(), Ints{});
}

TEST(CpuAttentionPrefix, who_shares_much_less_does_not_shorten_the_prefix_wherever_it_stands) {
  const auto document = [](int32_t own) { return Sequence{blocks_of(0, 64, own, 2), 1040}; };
  for (const int32_t own : {20, 900}) {  // blocks that come before and behind those of the document
    const Sequence other{blocks_of(0, 16, own, 40), 800};
    EXPECT_EQ(Plan({other, document(300), document(310), document(320)}).parts(), Ints{4});
    EXPECT_EQ(Plan({document(300), document(310), document(320), other}).parts(), Ints{4});
  }
  EXPECT_EQ(Plan({document(300), document(310), document(320)}).members(), (Ints{0, 1, 2}));
}

TEST(CpuAttentionPrefix, shorter_prefixes_of_several_are_found_beside_longer_ones) {
  const Sequence longer{blocks_of(0, 64, 300, 2), 1040}, shorter{blocks_of(0, 16, 400, 40), 500};
  const Plan plan({longer, longer, shorter, shorter, {blocks_of(0, 32, 500, 20), 700}});
  EXPECT_EQ(plan.parts(), (Ints{2, 1}));  // the last one shares half of what the first two do, and joins them
  EXPECT_EQ(plan.members(), (Ints{0, 1, 2, 3, 4}));
}

TEST(CpuAttentionPrefix, many_queries_and_windows_share_nothing) {
  const Sequence few{blocks_of(0, 64, 300, 2), 1020, 8}, many{blocks_of(0, 64, 300, 2), 1020, 9};
  EXPECT_EQ(Plan({few, few}).parts(), Ints{3});
  EXPECT_EQ(Plan({few, many}).parts(), Ints{});
  EXPECT_EQ(Plan({few, few}, 6, 512).parts(), Ints{});
}

TEST(CpuAttentionPrefix, queries_beyond_the_most_go_alone) {
  const std::vector<Sequence> sequences(300, {blocks_of(0, 32, 900, 2), 520});
  const Plan plan(sequences);
  EXPECT_EQ(plan.members().size(), static_cast<size_t>(kMaxPrefixTokens));
  EXPECT_EQ(plan.tokens().size(), static_cast<size_t>(kMaxPrefixTokens));
}

TEST(CpuAttentionPrefix, each_member_finds_its_own_tokens) {
  const Sequence one{blocks_of(0, 16, 300, 30), 600}, two{blocks_of(50, 16, 400, 30), 600, 2};
  const Plan plan({two, one, two, one, one});
  EXPECT_EQ(plan.parts().size(), 2u);
  EXPECT_EQ(plan.members(), (Ints{0, 1, 2, 3, 4}));
  for (const auto& [member, token] : {std::pair{0, 0}, {1, 2}, {2, 3}, {3, 5}, {4, 6}}) {
    EXPECT_EQ(plan.first_token(static_cast<size_t>(member)), token);
  }
}

}  // namespace
}  // namespace pagoda::cpu

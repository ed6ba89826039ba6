// Preemption: what is kept, where, what is told, and how often it can happen.
#include <gtest/gtest.h>

#include "core/check.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

/// Two sequences that together need more blocks than there are.
SimOptions tight(PreemptionMode mode, int64_t num_swap_blocks) {
  return {.num_blocks = 9, .prefix_cache = false, .rules = {.preemption = mode}, .num_swap_blocks = num_swap_blocks};
}

void add_two(SimEngine& engine) {
  for (const char* id : {"a", "b"}) engine.add(make_request(id, make_prompt(12, id[0] == 'a' ? 1 : 2), 16));
}

void step_to_preemption(SimEngine& engine) {
  while (engine.stats().num_preemptions == 0) {
    ASSERT_TRUE(engine.has_work());
    engine.step();
  }
}

void expect_tokens_as_alone(const SimEngine& engine) {
  for (const char* id : {"a", "b"}) {
    expect_same(engine.of(id), alone(make_request(id, make_prompt(12, id[0] == 'a' ? 1 : 2), 16), {}).at(0), id);
  }
}

/// Tokens computed from the preemption to the end.
int64_t tokens_to_the_end(SimEngine& engine) {
  int64_t num_tokens = 0;
  while (engine.has_work()) num_tokens += engine.step();
  return num_tokens;
}

TEST(Preemption, swap_keeps_what_was_computed) {
  SimEngine engine(tight(PreemptionMode::swap, 10));
  add_two(engine);
  step_to_preemption(engine);
  const Stats stats = engine.stats();
  EXPECT_EQ(stats.num_preemptions_swap, 1);
  EXPECT_EQ(stats.num_swapped, 1);
  EXPECT_EQ(stats.num_swapped_out_blocks, 4);
  EXPECT_EQ(stats.num_free_swap_blocks, 6);
  const auto left = static_cast<int64_t>(2 * 16 - engine.of("a").tokens.size() - engine.of("b").tokens.size());
  EXPECT_EQ(tokens_to_the_end(engine), left) << "one token computed for each that is generated";
  EXPECT_EQ(engine.stats().num_swapped_in_blocks, 4);
  EXPECT_EQ(engine.stats().num_swapped, 0);
  expect_tokens_as_alone(engine);
}

TEST(Preemption, recompute_computes_again) {
  SimEngine engine(tight(PreemptionMode::recompute, 10));
  add_two(engine);
  step_to_preemption(engine);
  EXPECT_EQ(engine.stats().num_preemptions_recompute, 1);
  const auto left = static_cast<int64_t>(2 * 16 - engine.of("a").tokens.size() - engine.of("b").tokens.size());
  EXPECT_GT(tokens_to_the_end(engine), left + 12);
  expect_tokens_as_alone(engine);
}

TEST(Preemption, a_full_swap_space_means_recompute) {
  SimEngine engine(tight(PreemptionMode::swap, 3));
  add_two(engine);
  step_to_preemption(engine);
  EXPECT_EQ(engine.stats().num_preemptions_recompute, 1);
  const std::vector<PreemptionNotice> notices = engine.scheduler().take_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_TRUE(notices[0].swap_was_full);
  EXPECT_FALSE(notices[0].swapped);
  engine.run();
  expect_tokens_as_alone(engine);
}

TEST(Preemption, the_automatic_choice_is_the_cheaper_one) {
  for (const bool swap_is_cheaper : {true, false}) {
    SimEngine engine(tight(PreemptionMode::automatic, 10));
    engine.scheduler().set_costs({.swap_block = 1e-3, .recompute_token = swap_is_cheaper ? 1e-3 : 1e-4});
    add_two(engine);
    step_to_preemption(engine);
    EXPECT_EQ(engine.stats().num_preemptions_swap, swap_is_cheaper);
    engine.run();
    expect_tokens_as_alone(engine);
  }
}

TEST(Preemption, a_notice_tells_who_lost_what) {
  SimEngine engine(tight(PreemptionMode::swap, 10));
  add_two(engine);
  step_to_preemption(engine);
  const std::vector<PreemptionNotice> notices = engine.scheduler().take_notices();
  ASSERT_EQ(notices.size(), 1u);
  const PreemptionNotice& notice = notices[0];
  EXPECT_EQ(notice.request_id, "b");
  EXPECT_EQ(notice.choice, 0);
  EXPECT_TRUE(notice.swapped);
  EXPECT_EQ(notice.num_tokens, 16);
  EXPECT_EQ(notice.num_blocks, 4);
  EXPECT_EQ(notice.free_blocks_before, 0);
  EXPECT_EQ(notice.free_blocks_after, 4);
  EXPECT_EQ(notice.num_running, 1);
  EXPECT_EQ(notice.total, 1);
  EXPECT_TRUE(engine.scheduler().take_notices().empty());
  engine.run();
}

TEST(Preemption, a_swapped_sequence_takes_from_the_cache_what_is_still_there) {
  SimOptions options = tight(PreemptionMode::swap, 10);
  options.prefix_cache = true;
  SimEngine engine(options);
  add_two(engine);
  step_to_preemption(engine);
  engine.abort("a");
  engine.run();
  EXPECT_LT(engine.stats().num_swapped_in_blocks, engine.stats().num_swapped_out_blocks);
  expect_same(engine.of("b"), alone(make_request("b", make_prompt(12, 2), 16), {}).at(0), "b");
}

TEST(Preemption, a_swapped_sequence_that_is_aborted_leaves_nothing_behind) {
  SimEngine engine(tight(PreemptionMode::swap, 10));
  add_two(engine);
  step_to_preemption(engine);
  engine.abort("b");
  EXPECT_EQ(engine.stats().num_free_swap_blocks, 10);
  engine.run();
  EXPECT_EQ(engine.stats().num_swapped_in_blocks, 0);
}

TEST(Preemption, a_sequence_is_not_preempted_again_and_again) {
  for (const PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute}) {
    SimOptions options = tight(mode, 1000);
    options.num_blocks = 100;
    options.max_num_seqs = 16;
    SimEngine engine(options);
    for (int i = 0; i < 16; ++i) engine.add(make_request(str("r", i), make_prompt(4, static_cast<uint64_t>(i)), 190));
    std::map<std::string, int> times;
    while (engine.has_work()) {
      engine.step();
      for (const PreemptionNotice& notice : engine.scheduler().take_notices()) ++times[notice.request_id];
    }
    for (const auto& [id, count] : times) EXPECT_LE(count, 8) << id;  // log2 of the 48 blocks of a sequence, and 2
  }
}

TEST(Preemption, a_sequence_starts_beside_others_only_above_the_watermark) {
  SimEngine engine({.num_blocks = 10, .prefix_cache = false, .watermark_blocks = 3});
  engine.add(make_request("a", make_prompt(16, 1), 3));  // 4 blocks, then 5
  engine.add(make_request("b", make_prompt(16, 2), 20));
  engine.add(make_request("c", make_prompt(32, 3), 2));  // needs 9 blocks in all, which it gets when it is alone
  engine.step();
  EXPECT_EQ(engine.stats().num_running, 1) << "b would leave 2 blocks free";
  engine.run();
  EXPECT_EQ(engine.stats().num_preemptions, 0);
}

}  // namespace
}  // namespace pagoda::sim

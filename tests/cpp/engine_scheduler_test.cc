// Scheduler: who runs, in which chunks, who yields, who shares, who is refused.
#include <gtest/gtest.h>

#include "core/check.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

std::vector<std::string> planned_ids(const SimEngine& engine) {
  std::vector<std::string> ids;
  for (const PlannedSeq& planned : engine.last_plan().seqs) ids.push_back(planned.seq->request->id);
  return ids;
}

using Ids = std::vector<std::string>;

TEST(Scheduler, serves_in_order_of_arrival_within_the_token_budget) {
  SimEngine engine({.max_num_batched_tokens = 10});
  engine.add(make_request("a", make_prompt(6, 1), 3));
  engine.add(make_request("b", make_prompt(12, 2), 3));
  engine.add(make_request("c", make_prompt(2, 3), 3));
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"a", "b"}));
  EXPECT_EQ(engine.last_plan().seqs[1].end, 4);  // the first chunk of b
  EXPECT_FALSE(engine.last_plan().seqs[1].wants_token);
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"a", "b", "c"}));
  EXPECT_EQ(engine.last_plan().num_tokens, 10);
  engine.run();
}

TEST(Scheduler, runs_at_most_max_num_seqs_sequences) {
  SimEngine engine({.max_num_seqs = 2});
  for (const char* id : {"a", "b", "c"}) engine.add(make_request(id, make_prompt(3, 1), 2));
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"a", "b"}));
  engine.run();
  EXPECT_TRUE(engine.finished("c"));
}

TEST(Scheduler, runs_no_more_sequences_than_there_are_tokens_in_a_step) {
  SimEngine engine({.max_num_seqs = 8, .max_num_batched_tokens = 2});
  for (const char* id : {"a", "b", "c"}) engine.add(make_request(id, {1}, 4));
  engine.step();
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"a", "b"}));
  engine.run();
}

TEST(Scheduler, an_earlier_request_is_never_overtaken) {
  SimEngine engine({.num_blocks = 8, .prefix_cache = false});
  engine.add(make_request("running", make_prompt(20, 1), 10));
  engine.step();
  engine.add(make_request("large", make_prompt(20, 2), 2));
  engine.add(make_request("small", make_prompt(2, 3), 2));
  while (!engine.finished("running")) {
    engine.step();
    EXPECT_EQ(planned_ids(engine), (Ids{"running"}));
  }
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"large", "small"}));
  engine.run();
}

TEST(Scheduler, lower_priority_numbers_run_first_and_ties_by_arrival) {
  SimEngine engine({.max_num_seqs = 1, .rules = {.policy = SchedulingPolicy::priority}});
  for (const auto& [id, priority] : std::vector<std::pair<const char*, int64_t>>{{"a", 5}, {"b", -1}, {"c", 5}, {"d", 0}}) {
    Request request = make_request(id, make_prompt(3), 1);
    request.params.priority = priority;
    engine.add(request);
  }
  Ids order;
  while (engine.has_work()) {
    engine.step();
    order.push_back(planned_ids(engine).at(0));
  }
  EXPECT_EQ(order, (Ids{"b", "d", "a", "c"}));
}

TEST(Scheduler, first_come_first_served_ignores_priorities) {
  SimEngine engine({.max_num_seqs = 1});
  engine.add(make_request("a", make_prompt(3), 1));
  Request urgent = make_request("b", make_prompt(3), 1);
  urgent.params.priority = -9;
  engine.add(urgent);
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"a"}));
}

TEST(Scheduler, the_last_sequence_yields_its_blocks_and_resumes_at_its_place) {
  SimEngine engine({.num_blocks = 8, .prefix_cache = false});
  engine.add(make_request("a", make_prompt(12, 1), 16));
  engine.add(make_request("b", make_prompt(12, 2), 16));
  while (engine.stats().num_preemptions == 0) engine.step();
  engine.add(make_request("c", make_prompt(2, 3), 4));
  const size_t had = engine.of("b").tokens.size();
  EXPECT_GT(had, 0u);
  while (!engine.finished("a")) engine.step();
  EXPECT_EQ(engine.of("b").tokens.size(), had) << "b cannot fit while a runs";
  EXPECT_TRUE(engine.of("c").tokens.empty()) << "c must not overtake b";
  engine.run();
  EXPECT_EQ(engine.of("b").tokens.size(), 16u);
  for (const char* id : {"a", "b"}) {
    expect_same(engine.of(id), alone(make_request(id, make_prompt(12, id[0] == 'a' ? 1 : 2), 16), {}).at(0), id);
  }
}

TEST(Scheduler, requests_that_each_want_most_of_the_pool_all_finish_with_few_preemptions) {
  SimEngine engine({.num_blocks = 20, .prefix_cache = false});
  const int count = 12;
  for (int i = 0; i < count; ++i) {
    engine.add(make_request("r" + std::to_string(i), make_prompt(4, static_cast<uint64_t>(i)), 44));  // 60 % of the blocks
  }
  engine.run();
  EXPECT_LE(engine.stats().num_preemptions, 4 * count);
  for (int i = 0; i < count; ++i) EXPECT_EQ(engine.of("r" + std::to_string(i)).tokens.size(), 44u);
}

TEST(Scheduler, one_giant_among_many_small_ones_is_not_starved) {
  SimEngine engine({.num_blocks = 24, .max_num_batched_tokens = 16, .prefix_cache = false});
  for (int i = 0; i < 10; ++i) engine.add(make_request("early" + std::to_string(i), make_prompt(5, 1), 10));
  engine.add(make_request("giant", make_prompt(80, 2), 10));
  int num_late = 0, steps = 0;
  for (; !engine.finished("giant"); ++steps) {
    ASSERT_LT(steps, 200);
    engine.add(make_request("late" + std::to_string(num_late++), make_prompt(5, 3), 10));
    engine.step();
  }
  engine.run();
}

TEST(Scheduler, requests_of_one_step_share_their_common_beginning) {
  SimEngine engine({});
  engine.add(make_request("a", make_prompt(18, 1), 3));
  engine.add(make_request("b", make_prompt(18, 1), 3));
  engine.step();
  EXPECT_EQ(engine.last_plan().num_tokens, 18 + 2);
  engine.run();
  EXPECT_EQ(engine.of("a").num_cached_tokens, 0);
  EXPECT_EQ(engine.of("b").num_cached_tokens, 16);
  EXPECT_EQ(engine.of("a").tokens, engine.of("b").tokens);
  EXPECT_EQ(engine.stats().prefix_cache_queries, 36);
  EXPECT_EQ(engine.stats().prefix_cache_hits, 16);
}

TEST(Scheduler, a_hit_never_covers_the_whole_prompt) {
  SimEngine engine({});
  engine.add(make_request("a", make_prompt(16, 1), 3));
  engine.run();
  engine.add(make_request("b", make_prompt(16, 1), 3));
  engine.run();
  EXPECT_EQ(engine.of("b").num_cached_tokens, 12);
  EXPECT_EQ(engine.of("a").tokens, engine.of("b").tokens);
}

TEST(Scheduler, a_later_turn_finds_the_earlier_answer_in_the_cache) {
  SimEngine engine({});
  engine.add(make_request("a", make_prompt(10, 1), 10));
  engine.run();
  std::vector<int32_t> prompt = make_prompt(10, 1);
  prompt.insert(prompt.end(), engine.of("a").tokens.begin(), engine.of("a").tokens.end());
  engine.add(make_request("b", prompt, 3));
  engine.run();
  EXPECT_EQ(engine.of("b").num_cached_tokens, 16);  // 19 of the 20 tokens have keys and values: 4 full blocks
}

TEST(Scheduler, two_salts_never_share) {
  SimEngine engine({});
  for (const char* salt : {"alice", "bob", "alice"}) {
    Request request = make_request(str(salt, engine.transcripts().size()), make_prompt(18, 1), 2);
    request.params.cache_salt = salt;
    engine.add(request);
    engine.run();
  }
  EXPECT_EQ(engine.of("alice0").num_cached_tokens, 0);
  EXPECT_EQ(engine.of("bob1").num_cached_tokens, 0);
  EXPECT_EQ(engine.of("alice2").num_cached_tokens, 16);
}

TEST(Scheduler, a_long_prompt_takes_no_more_of_a_step_than_it_may) {
  SimEngine engine({.max_num_batched_tokens = 32, .prefix_cache = false, .max_prefill_chunk = 10});
  engine.add(make_request("long", make_prompt(45, 1), 3));
  engine.add(make_request("short", make_prompt(6, 2), 3));
  engine.step();
  EXPECT_EQ(planned_ids(engine), (Ids{"long", "short"}));
  EXPECT_EQ(engine.last_plan().seqs[0].end, 10);
  engine.run();
}

TEST(Scheduler, a_long_prompt_leaves_room_for_later_sequences_that_decode) {
  SimEngine engine({.max_num_batched_tokens = 16, .prefix_cache = false, .rules = {.policy = SchedulingPolicy::priority}});
  for (const char* id : {"b", "c"}) {
    Request request = make_request(id, make_prompt(3, 1), 12);
    request.params.priority = 1;
    engine.add(request);
  }
  engine.step();
  engine.add(make_request("long", make_prompt(60, 2), 3));  // of higher priority
  while (!engine.finished("long")) {
    engine.step();
    EXPECT_EQ(engine.last_plan().seqs.size(), 3u);
  }
  engine.run();
}

TEST(Scheduler, tenants_take_turns_whatever_they_ask_for) {
  SimEngine engine({.max_num_seqs = 1, .prefix_cache = false, .rules = {.policy = SchedulingPolicy::fair}});
  for (int i = 0; i < 40; ++i) {
    Request request = make_request(str("greedy", i), make_prompt(100, static_cast<uint64_t>(i)), 40);
    request.tenant = "greedy";
    engine.add(request);
  }
  for (int i = 0; i < 5; ++i) {
    Request request = make_request(str("modest", i), make_prompt(10, 99), 10);
    request.tenant = "modest";
    engine.add(request);
  }
  int greedy_before = 0;
  while (!engine.finished("modest4")) {
    engine.step();
    greedy_before = 0;
    for (int i = 0; i < 40; ++i) greedy_before += engine.finished(str("greedy", i));
  }
  EXPECT_LE(greedy_before, 1 + FairTurns::kQuantum / 140) << "100 tokens of the modest waited behind thousands of the greedy";
  engine.run();
}

TEST(Scheduler, stops_at_end_of_sequence_unless_told_to_go_on) {
  const SimOptions plain;
  const std::vector<int32_t> free_run = alone(make_request("a", make_prompt(5, 1), 10), plain).at(0).tokens;
  SimOptions options;
  options.eos_tokens = {free_run[3]};
  const auto first = static_cast<size_t>(std::ranges::find(free_run, free_run[3]) - free_run.begin());
  SimEngine engine(options);
  engine.add(make_request("stops", make_prompt(5, 1), 10));
  Request request = make_request("ignores", make_prompt(5, 1), 10);
  request.params.ignore_eos = true;
  engine.add(request);
  engine.run();
  EXPECT_EQ(engine.of("stops").tokens.size(), first + 1);
  EXPECT_EQ(engine.of("stops").finish, FinishReason::stop);
  EXPECT_EQ(engine.of("stops").stop_token, free_run[3]);
  EXPECT_EQ(engine.of("ignores").tokens, free_run);
  EXPECT_EQ(engine.of("ignores").finish, FinishReason::length);
  EXPECT_EQ(engine.of("ignores").stop_token, -1);
}

TEST(Scheduler, does_not_stop_before_min_tokens) {
  SimEngine engine({});
  Request request = make_request("a", make_prompt(5, 1), 30, 1.0);
  for (int64_t token = 0; token < 30; ++token) request.params.stop_token_ids.push_back(token);
  request.params.min_tokens = 9;
  engine.add(request);
  engine.run();
  EXPECT_GE(engine.of("a").tokens.size(), 10u);
  EXPECT_EQ(engine.of("a").finish, FinishReason::stop);
}

TEST(Scheduler, ends_at_the_longest_context_when_max_tokens_is_unset) {
  SimEngine engine({.max_model_len = 30});
  Request request = make_request("a", make_prompt(5, 1), 1);
  request.params.max_tokens.reset();
  engine.add(request);
  engine.run();
  EXPECT_EQ(engine.of("a").tokens.size(), 25u);
  EXPECT_EQ(engine.of("a").finish, FinishReason::length);
}

TEST(Scheduler, a_request_that_fills_every_block_runs_alone) {
  SimEngine engine({.num_blocks = 5, .max_num_batched_tokens = 7});
  engine.add(make_request("a", make_prompt(19, 1), 1));
  engine.add(make_request("b", make_prompt(4, 2), 16));
  engine.run();
  EXPECT_EQ(engine.of("a").finish, FinishReason::length);
  EXPECT_EQ(engine.of("b").tokens.size(), 16u);
  EXPECT_THROW(engine.add(make_request("c", make_prompt(20, 1), 1)), InvalidArgument);
}

TEST(Scheduler, refuses_more_waiting_sequences_than_allowed) {
  SimEngine engine({.max_num_seqs = 1, .max_num_queued_seqs = 2});
  engine.add(make_request("a", make_prompt(3), 2));
  engine.add(make_request("b", make_prompt(3), 2));
  EXPECT_THROW(engine.add(make_request("c", make_prompt(3), 2)), Overloaded);
  engine.step();
  engine.add(make_request("c", make_prompt(3), 2));
  engine.run();
}

TEST(Scheduler, aborting_works_in_every_state_and_frees_all_blocks) {
  SimEngine engine({.num_blocks = 8, .max_num_batched_tokens = 8, .prefix_cache = false});
  engine.add(make_request("a", make_prompt(12, 1), 18));
  engine.add(make_request("b", make_prompt(12, 2), 18));
  engine.add(make_request("waiting", make_prompt(12, 3), 18));
  engine.step();
  EXPECT_EQ(engine.of("a").tokens.size(), 0u);
  engine.abort("a");  // in the middle of its prompt
  engine.abort("waiting");
  engine.abort("waiting");  // twice
  engine.abort("unknown");
  engine.add(make_request("c", make_prompt(12, 4), 18));
  while (engine.stats().num_preemptions == 0) engine.step();
  engine.abort("c");  // preempted
  EXPECT_EQ(engine.of("c").finish, FinishReason::abort);
  engine.abort("b");  // running
  EXPECT_FALSE(engine.has_work());
  EXPECT_EQ(engine.kv().num_free(), 8);
  EXPECT_EQ(engine.stats().num_finished_abort, 4);
  engine.step();
}

TEST(Scheduler, aborting_a_request_leaves_the_sharers_of_its_blocks_alone) {
  SimEngine engine({});
  engine.add(make_request("a", make_prompt(18, 1), 10));
  engine.add(make_request("b", make_prompt(18, 1), 10));
  engine.step();
  engine.abort("a");
  engine.run();
  expect_same(engine.of("b"), alone(make_request("b", make_prompt(18, 1), 10), {}).at(0), "b");
}

TEST(Scheduler, a_row_without_usable_logits_ends_only_its_own_sequence) {
  Faults faults;
  faults.nan_after = 9;
  SimOptions options;
  options.faults = &faults;
  std::vector<int32_t> bad = make_prompt(17, 1);
  bad.push_back(9);
  std::vector<int32_t> good = make_prompt(17, 1);
  good.push_back(8);
  SimEngine engine(options);
  engine.add(make_request("bad", bad, 5));
  Request neighbour = make_request("good", good, 5);
  neighbour.params.logit_bias = {{9, -100}};
  engine.add(neighbour);
  engine.run();
  EXPECT_EQ(engine.of("bad").finish, FinishReason::error);
  EXPECT_EQ(engine.of("bad").error, "the model gave no usable logits at position 17");
  EXPECT_TRUE(engine.of("bad").tokens.empty());
  EXPECT_EQ(engine.of("good").num_cached_tokens, 16);
  EXPECT_EQ(engine.of("good").tokens.size(), 5u);
  EXPECT_EQ(engine.stats().num_finished_error, 1);
}

TEST(Scheduler, a_request_that_rules_out_every_token_ends_with_an_error_that_says_so) {
  SimEngine engine(SimOptions{});
  Request request = make_request("a", make_prompt(5, 1), 5);
  request.params.allowed_token_ids = {7};
  request.params.logit_bias = {{7, -100}};
  engine.add(request);
  engine.run();
  EXPECT_EQ(engine.of("a").finish, FinishReason::error);
  EXPECT_NE(engine.of("a").error.find("restrictions leave no token"), std::string::npos) << engine.of("a").error;
  EXPECT_EQ(engine.stats().num_numerics_errors, 0);
}

TEST(Scheduler, an_exception_in_making_a_sampling_row_ends_only_its_own_sequence) {
  SimOptions options;
  options.add_row = [](SampleBatch& batch, const SampleSource& source) {
    add_sample_row(batch, source);
    if (source.key == 666 && std::ssize(source.tokens) == 20) throw std::runtime_error("out of luck");
  };
  Request bad = make_request("bad", make_prompt(18, 1), 9);
  bad.params.seed = 666;
  bad.params.logit_bias = {{1, 5}, {2, -100}};
  bad.params.frequency_penalty = 1;
  SimEngine engine(options);
  engine.add(make_request("before", make_prompt(6, 2), 9));
  engine.add(bad);
  Request after = make_request("after", make_prompt(18, 1), 9, 1.0);  // reads the blocks that the failing one computes
  after.params.frequency_penalty = 2;
  after.params.logprobs = 2;
  engine.add(after);
  engine.run();
  EXPECT_EQ(engine.of("bad").finish, FinishReason::error);
  EXPECT_EQ(engine.of("bad").error, "sampling could not be set up: out of luck");
  EXPECT_EQ(engine.of("bad").tokens.size(), 2u);
  EXPECT_EQ(engine.of("after").num_cached_tokens, 16);
  expect_same(engine.of("after"), alone(after, {}).at(0), "after");
  expect_same(engine.of("before"), alone(make_request("before", make_prompt(6, 2), 9), {}).at(0), "before");
}

TEST(Scheduler, blocks_read_by_a_failed_sequence_are_not_found_again) {
  Faults faults;
  faults.nan_after = 9;
  SimOptions options;
  options.faults = &faults;
  SimEngine engine(options);
  std::vector<int32_t> prompt = make_prompt(17, 1);
  prompt.push_back(9);
  engine.add(make_request("bad", prompt, 5));
  engine.run();
  faults.nan_after = -1;
  engine.add(make_request("again", prompt, 5));
  engine.run();
  EXPECT_EQ(engine.of("again").num_cached_tokens, 0);
  EXPECT_EQ(engine.of("again").tokens.size(), 5u);
}

TEST(Scheduler, prompt_logprobs_bypass_the_cache_and_respect_the_planned_rows) {
  SimOptions options{.num_blocks = 100, .max_num_batched_tokens = 150, .max_model_len = 400};
  Request request = make_request("a", make_prompt(140, 1), 2);
  SimEngine engine(options);
  engine.add(request);
  engine.run();
  request.id = "b";
  request.params.prompt_logprobs = 3;
  engine.add(request);
  engine.step();
  EXPECT_EQ(engine.last_plan().num_tokens, Limits::kMaxPromptRows);
  engine.run();
  const Transcript& got = engine.of("b");
  EXPECT_EQ(got.num_cached_tokens, 0);
  ASSERT_EQ(got.prompt_logprobs.size(), 139u);
  EXPECT_EQ(got.prompt_logprobs[0].top_tokens.size(), 3u);
  EXPECT_EQ(got.tokens, engine.of("a").tokens);
}

}  // namespace
}  // namespace pagoda::sim

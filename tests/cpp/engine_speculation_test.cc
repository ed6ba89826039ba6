// Draft tokens: fewer steps and nothing else changed, whatever a request asks for and whatever happens to it on its way.
#include <gtest/gtest.h>

#include "sim_engine.h"

namespace pagoda::sim {
namespace {

constexpr SchedulingRules kDrafting{.draft = {.max_tokens = 5, .lookup_max = 4, .lookup_min = 2}};

SimOptions drafting(SimOptions options = {}) {
  options.repeats = true;
  options.rules.draft = kDrafting.draft;
  return options;
}

/// Requests whose texts run into circles, greedy and drawn.
std::vector<Request> repeating_requests(int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request request = make_request("r" + std::to_string(i), make_prompt(3 + 9 * (i % 4), static_cast<uint64_t>(i % 3)), 90);
    request.params.seed = i;
    if (i % 3 == 1) request.params.temperature = 0.3;
    if (i % 4 == 0) request.params.logprobs = i % 3;
    if (i % 5 == 2) request.params.prompt_logprobs = 1;
    if (i % 6 == 3) request.params.n = 3, request.params.temperature = 0.3;
    if (i % 7 == 4) request.params.min_tokens = 30, request.params.stop_token_ids = {3, 11, 19, 27};
    if (i % 8 == 5) request.params.frequency_penalty = 0.2;
    if (i % 8 == 6) request.params.logit_bias = {{7, 1.5}}, request.params.allowed_token_ids = {1, 7, 9, 21, 30, 33};
    if (i % 9 == 7) request.bad_words = {{1, 2}, {5}};
    requests.push_back(request);
  }
  return requests;
}

/// Runs all together with drafts and compares each with itself alone and without. Returns the counters.
Stats expect_as_without(const SimOptions& options, int count = 12) {
  const Stats stats = expect_each_as_alone(repeating_requests(count), options);
  EXPECT_GT(stats.spec_decode_num_accepted_tokens, 50);
  EXPECT_GT(stats.spec_decode_num_draft_tokens, stats.spec_decode_num_accepted_tokens) << "some drafts are wrong";
  EXPECT_GE(stats.spec_decode_num_draft_tokens, stats.spec_decode_num_drafts);
  return stats;
}

/// Steps that a request takes alone.
int num_steps(const Request& request, const SimOptions& options) {
  SimEngine engine(options);
  engine.add(request);
  int count = 0;
  for (; engine.has_work(); ++count) engine.step();
  return count;
}

TEST(Speculation, gives_the_same_tokens_in_fewer_steps) {
  const Request request = make_request("a", make_prompt(5), 150);
  SimOptions plain;
  plain.repeats = true;
  EXPECT_EQ(num_steps(request, plain), 150);
  EXPECT_LT(num_steps(request, drafting()), 75);
  SimEngine engine(drafting());
  engine.add(request);
  engine.run();
  expect_same(engine.of("a"), alone(request, plain).at(0), "a");
  const Stats stats = engine.stats();
  EXPECT_EQ(stats.num_generation_tokens, 150);
  EXPECT_GT(stats.spec_decode_num_accepted_tokens, 75);
}

TEST(Speculation, changes_nothing_in_a_batch) { expect_as_without(drafting({.num_blocks = 500})); }

TEST(Speculation, changes_nothing_with_two_steps_in_flight) {
  expect_as_without(drafting({.num_blocks = 500, .steps_in_flight = 2}));
  expect_as_without(drafting({.num_blocks = 60, .max_num_batched_tokens = 20, .steps_in_flight = 2}));
}

TEST(Speculation, changes_nothing_with_small_chunks_and_blocks) {
  for (int64_t size : {1, 2, 4, 16}) {
    expect_as_without(drafting({.num_blocks = 1600, .block_size = size, .max_num_batched_tokens = 24}));
  }
}

TEST(Speculation, changes_nothing_where_sequences_are_preempted) {
  for (int64_t num_swap_blocks : {0, 30}) {
    SCOPED_TRACE(num_swap_blocks);
    SimOptions options = drafting({.num_blocks = 70, .num_swap_blocks = num_swap_blocks});
    options.rules.preemption = num_swap_blocks ? PreemptionMode::swap : PreemptionMode::recompute;
    const Stats stats = expect_as_without(options, 20);
    EXPECT_GT(num_swap_blocks ? stats.num_preemptions_swap : stats.num_preemptions_recompute, 0);
  }
}

TEST(Speculation, rejected_tokens_never_reach_the_prefix_cache) {
  const SimOptions options = drafting({.num_blocks = 500});
  SimEngine engine(options);
  for (const Request& request : repeating_requests(6)) engine.add(request);
  engine.run();
  // What was generated is found and continued: a wrong token in a cached block would change what follows.
  std::vector<Request> again;
  for (Request request : repeating_requests(6)) {
    if (request.params.n > 1 || request.params.prompt_logprobs) continue;
    const Transcript& made = engine.of(request.id);
    request.id += " again";
    request.prompt.insert(request.prompt.end(), made.tokens.begin(), made.tokens.end());
    engine.add(request);
    again.push_back(request);
  }
  engine.run();
  for (const Request& request : again) {
    expect_same(engine.of(request.id), alone(request, options).at(0), request.id);
    EXPECT_GE(engine.of(request.id).num_cached_tokens, std::ssize(request.prompt) - 8) << "what was made is in the cache";
  }
}

TEST(Speculation, a_stop_token_within_accepted_tokens_cuts_the_output_there) {
  const SimOptions options = drafting();
  const std::vector<int32_t> circle = alone(make_request("a", make_prompt(5), 150), options).at(0).tokens;
  int64_t num_accepted = 0;
  for (std::ptrdiff_t length = 100; length < 110; ++length) {
    SCOPED_TRACE(length);
    Request request = make_request("a", make_prompt(5), 40);
    request.prompt.insert(request.prompt.end(), circle.begin(), circle.begin() + length);  // where drafts come from
    request.params.logprobs = 1;
    request.params.stop_token_ids = {circle[110]};
    SimEngine engine(options);
    engine.add(request);
    engine.run();
    expect_same(engine.of("a"), alone(request, options).at(0), "a");
    EXPECT_EQ(engine.of("a").finish, FinishReason::stop);
    num_accepted += engine.stats().spec_decode_num_accepted_tokens;
  }
  EXPECT_GT(num_accepted, 10);
}

TEST(Speculation, max_tokens_is_never_passed) {
  for (int64_t most = 40; most < 50; ++most) {
    const Request request = make_request("a", make_prompt(5), most);
    SimEngine engine(drafting());
    engine.add(request);
    engine.run();
    expect_same(engine.of("a"), alone(request, drafting()).at(0), "a");
    EXPECT_EQ(std::ssize(engine.of("a").tokens), most);
  }
}

TEST(Speculation, logits_that_are_no_numbers_end_the_sequence_where_they_would_without) {
  const Request request = make_request("a", make_prompt(5), 150);
  const std::vector<int32_t> tokens = alone(request, drafting()).at(0).tokens;
  Faults faults;
  SimOptions options = drafting({.faults = &faults});
  SimEngine engine(options);
  engine.add(request);
  while (std::ssize(engine.of("a").tokens) < 60) engine.step();  // well inside of the circle
  faults.nan_after = tokens[static_cast<size_t>(std::ssize(engine.of("a").tokens) + 1)];
  engine.run();
  EXPECT_EQ(engine.of("a").finish, FinishReason::error);
  const auto& got = engine.of("a").tokens;
  EXPECT_TRUE(std::equal(got.begin(), got.end(), tokens.begin()));
  EXPECT_EQ(got.back(), faults.nan_after);
  EXPECT_EQ(engine.stats().num_numerics_errors, 1);
}

TEST(Speculation, embeddings_in_the_same_steps_are_their_own) {
  SimEngine engine(drafting({.num_blocks = 500}));
  engine.add(make_request("a", make_prompt(5), 150));
  while (engine.stats().spec_decode_num_accepted_tokens < 40) engine.step();  // well inside of the circle
  Request request = make_request("b", make_prompt(20, 3), 1);
  request.pooling = Pooling::mean;
  engine.add(request);
  engine.step();
  EXPECT_GT(engine.last_plan().num_draft, 0);
  EXPECT_EQ(engine.last_plan().seqs.size(), 2u);
  engine.run();
  expect_same(engine.of("b"), alone(request, drafting()).at(0), "b");
}

TEST(Speculation, an_abort_while_drafts_are_in_flight_leaves_nothing_behind) {
  SimEngine engine(drafting({.steps_in_flight = 2}));
  engine.add(make_request("a", make_prompt(5), 150));
  engine.add(make_request("b", make_prompt(7), 150));
  while (engine.stats().spec_decode_num_drafts < 20) engine.step();
  engine.abort("a");
  engine.run();
  EXPECT_EQ(engine.of("a").finish, FinishReason::abort);
  expect_same(engine.of("b"), alone(make_request("b", make_prompt(7), 150), drafting()).at(0), "b");
}

TEST(Speculation, draws_that_depend_on_other_tokens_get_no_drafts) {
  for (const bool penalty : {false, true}) {
    Request request = make_request("a", make_prompt(5), 100);
    if (penalty) {
      request.params.frequency_penalty = 0.1;
    } else {
      request.bad_words = {{1, 2}};
    }
    SimEngine engine(drafting());
    engine.add(request);
    engine.run();
    EXPECT_EQ(engine.stats().spec_decode_num_drafts, 0);
  }
}

TEST(Speculation, takes_no_block_that_others_may_need_soon) {
  // Both sequences need all blocks at their end: with a block taken for drafts one would lose its own.
  SimOptions options = drafting({.num_blocks = 50});
  SimEngine engine(options);
  for (const char* id : {"a", "b"}) engine.add(make_request(id, make_prompt(10), 90));
  engine.run();
  EXPECT_EQ(engine.stats().num_preemptions, 0);
  EXPECT_GT(engine.stats().spec_decode_num_accepted_tokens, 20);
}

TEST(Speculation, a_step_has_a_bounded_number_of_draft_tokens) {
  SimOptions options = drafting({.num_blocks = 4000, .max_num_seqs = 40, .max_num_batched_tokens = 400});
  options.rules.draft.max_tokens = 8;
  SimEngine engine(options);
  for (int i = 0; i < 40; ++i) engine.add(make_request(str("r", i), make_prompt(5, static_cast<uint64_t>(i)), 150));
  int64_t most = 0;
  while (engine.has_work()) {
    engine.step();
    most = std::max(most, engine.last_plan().num_draft);
  }
  EXPECT_EQ(most, Limits::kMaxDraftRows);
}

TEST(Speculation, tokens_that_cost_as_much_as_a_step_are_not_tried) {
  SimEngine engine(drafting());
  for (int i = 0; i < 100; ++i) {
    const int64_t num_tokens = 1 + i % 8;
    engine.scheduler().step_cost().add(num_tokens, 0.001 * static_cast<double>(num_tokens * num_tokens));
  }
  engine.add(make_request("a", make_prompt(5), 150));
  engine.run();
  EXPECT_EQ(engine.stats().spec_decode_num_drafts, 0);
}

}  // namespace
}  // namespace pagoda::sim

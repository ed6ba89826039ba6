// Equations between runs: whatever the batch, the chunks, the cache or the lack of blocks, a request gets the same tokens and
// logprobs.
#include <gtest/gtest.h>

#include "sim_engine.h"

namespace pagoda::sim {
namespace {

/// Requests that use about everything, some with common beginnings.
std::vector<Request> mixed_requests(int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> prompt = make_prompt(1 + 7 * (i % 5), static_cast<uint64_t>(i % 3));
    if (i % 4 == 0) prompt.push_back(i % 40);
    Request request = make_request("r" + std::to_string(i), prompt, 1 + (i * 5) % 23, i % 2 ? 1.0 : 0.0);
    request.params.seed = i;
    if (i % 3 == 0) request.params.logprobs = i % 4;
    if (i % 5 == 0) request.params.prompt_logprobs = 2;
    if (i % 4 == 1) request.params.frequency_penalty = 1.5;
    if (i % 6 == 2) request.params.n = 3;
    if (i % 7 == 3) request.params.cache_salt = "salt";
    if (i % 8 == 5) request.params.stop_token_ids = {3, 11, 19, 27};
    if (i % 8 == 5) request.params.min_tokens = std::min<int64_t>(4, *request.params.max_tokens);
    if (i % 4 == 3 && request.params.n == 1 && !request.params.prompt_logprobs) {
      request.pooling = i % 8 == 3 ? Pooling::mean : Pooling::last;
    }
    requests.push_back(request);
  }
  return requests;
}

/// Runs all requests together and compares each with itself alone. Returns the counters.
Stats expect_as_alone(const SimOptions& options, int count = 16) {
  return expect_each_as_alone(mixed_requests(count), options);
}

TEST(Equations, greedy_tokens_are_those_of_the_model_itself) {
  const Request request = make_request("a", make_prompt(9, 4), 12);
  std::vector<int32_t> tokens = request.prompt;
  for (int i = 0; i < 12; ++i) {
    const uint64_t context = context_of(tokens);
    int32_t best = 0;
    for (int32_t v = 1; v < 40; ++v) best = logit(context, v) > logit(context, best) ? v : best;
    tokens.push_back(best);
  }
  EXPECT_EQ(alone(request, {}).at(0).tokens, std::vector<int32_t>(tokens.begin() + 9, tokens.end()));
}

TEST(Equations, two_steps_in_flight_give_the_same_tokens) {
  const SimOptions roomy{.num_blocks = 500, .steps_in_flight = 2};
  expect_as_alone(roomy);
  const SimOptions tight{.num_blocks = 30, .max_num_batched_tokens = 11, .steps_in_flight = 2};
  EXPECT_GT(expect_as_alone(tight).num_preemptions, 0);
  SimEngine engine(roomy);
  engine.add(make_request("a", make_prompt(5), 10));
  engine.run();
  EXPECT_EQ(engine.backend().num_fed_tokens(), 9) << "each token but the last is taken from the step before";
}

TEST(Equations, a_sequence_with_penalties_waits_for_its_tokens) {
  SimEngine engine({.steps_in_flight = 2});
  Request request = make_request("a", make_prompt(5), 10);
  request.params.frequency_penalty = 1.5;
  engine.add(request);
  engine.run();
  EXPECT_EQ(engine.backend().num_fed_tokens(), 0);
  expect_same(engine.of("a"), alone(request, {}).at(0), "a");
}

TEST(Equations, steps_that_are_filled_up_give_the_same_tokens) {
  const SimOptions plain{.num_blocks = 500};
  SimOptions padding = plain;
  padding.pads_decode_steps = true;
  for (const Request& request : mixed_requests(8)) {
    const auto expected = alone(request, plain), got = alone(request, padding);
    for (size_t choice = 0; choice < expected.size(); ++choice) expect_same(got[choice], expected[choice], request.id);
  }
  expect_as_alone(padding);
  SimEngine engine(padding);
  for (const Request& request : mixed_requests(11)) engine.add(request);
  engine.run();
  EXPECT_GT(engine.model().num_padding_rows(), 0);
}

TEST(Equations, a_batch_of_sixteen_equals_each_alone) {
  const Stats stats = expect_as_alone({.num_blocks = 500});
  EXPECT_EQ(stats.num_preemptions, 0);
  EXPECT_GT(stats.prefix_cache_hits, 0);
}

TEST(Equations, chunks_of_any_size_equal_the_whole) {
  for (int64_t chunk : {1, 2, 3, 4, 5, 7, 8, 9, 31, 200}) {
    SCOPED_TRACE(chunk);
    expect_as_alone({.num_blocks = 500, .max_num_batched_tokens = chunk});
  }
}

TEST(Equations, blocks_of_any_size_equal_each_other) {
  for (int64_t block_size : {1, 2, 4, 16, 256}) {
    SCOPED_TRACE(block_size);
    expect_as_alone({.num_blocks = 500, .block_size = block_size});
  }
}

TEST(Equations, preempted_equals_not_preempted) {
  for (bool prefix_cache : {false, true}) {
    SCOPED_TRACE(prefix_cache);
    const Stats stats = expect_as_alone(
        {.num_blocks = 20, .max_num_batched_tokens = 16, .max_model_len = 80, .prefix_cache = prefix_cache}, 40);
    EXPECT_GT(stats.num_preemptions, 0);
  }
}

TEST(Equations, priorities_change_the_order_and_nothing_else) {
  expect_as_alone({.num_blocks = 20, .max_model_len = 80, .rules = {.policy = SchedulingPolicy::priority}}, 24);
}

TEST(Equations, a_prefix_hit_equals_a_miss) {
  const SimOptions options{.num_blocks = 500};
  SimEngine engine(options);
  std::vector<Request> requests = mixed_requests(16);
  for (const Request& request : requests) engine.add(request);
  engine.run();
  const int64_t hits_before = engine.stats().prefix_cache_hits;
  for (Request& request : requests) {
    request.id += " again";
    engine.add(request);
  }
  engine.run();
  EXPECT_GT(engine.stats().prefix_cache_hits, hits_before);
  for (const Request& request : requests) {
    const std::string first = request.id.substr(0, request.id.size() - 6);
    for (int32_t choice = 0; choice < request.params.n; ++choice) {
      expect_same(engine.of(request.id, choice), engine.of(first, choice), request.id);
    }
  }
}

TEST(Equations, a_hash_that_always_collides_changes_nothing) {
  expect_as_alone({.num_blocks = 60, .hooks = {[](Hash128, std::span<const int32_t>) { return Hash128{1, 1}; }, {}}});
}

TEST(Equations, any_single_failing_allocation_changes_nothing_and_leaks_nothing) {
  int calls = 0, failing = 0;
  do {
    ++failing;
    calls = 0;
    SCOPED_TRACE(failing);
    SimOptions options{.num_blocks = 40, .max_num_batched_tokens = 16, .max_model_len = 100};
    options.hooks.fail_allocation = [&] { return ++calls == failing; };
    SimEngine engine(options);
    const std::vector<Request> requests = mixed_requests(8);
    for (const Request& request : requests) engine.add(request);
    engine.run();
    ASSERT_FALSE(HasFailure());
    for (const Request& request : requests) expect_same(engine.of(request.id), alone(request, options).at(0), request.id);
  } while (calls >= failing);
  EXPECT_GT(failing, 30);
}

TEST(Equations, a_choice_ending_early_or_an_abort_does_not_disturb_the_other_choices) {
  Request request = make_request("a", make_prompt(21, 1), 30, 1.0);
  request.params.n = 5;
  request.params.stop_token_ids = {1, 2, 3};
  const auto reference = alone(request, {});
  SimEngine engine({});
  engine.add(request);
  for (int i = 0; i < 6; ++i) engine.step();
  Request other = request;
  other.id = "b";
  engine.add(other);
  for (int i = 0; i < 3; ++i) engine.step();
  engine.abort("a");
  engine.run();
  for (int32_t choice = 0; choice < 5; ++choice) {
    const Transcript& whole = reference.at(static_cast<size_t>(choice));
    expect_same(engine.of("b", choice), whole, str("choice ", choice));
    const auto& cut = engine.of("a", choice).tokens;
    ASSERT_LE(cut.size(), whole.tokens.size());
    EXPECT_TRUE(std::equal(cut.begin(), cut.end(), whole.tokens.begin()));
  }
}

}  // namespace
}  // namespace pagoda::sim

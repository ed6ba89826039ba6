// The choices of a request: what they share, what they copy, and that none notices the others.
#include <gtest/gtest.h>

#include "core/check.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

TEST(Choices, a_choice_copies_no_block_that_the_same_step_computes) {
  // "long" takes the blocks of choices 0 and 1 before choice 2 has started; when it ends, all three start in one step.
  SimEngine engine({.num_blocks = 7});
  engine.add(make_request("long", make_prompt(16, 1), 12));
  Request choices = make_request("choices", make_prompt(8, 2), 10, 1.0);
  choices.params.n = 3;
  engine.add(choices);
  engine.run();
  EXPECT_GE(engine.stats().num_preemptions, 2);
  const std::vector<Transcript> expected = alone(choices, {});
  for (int32_t choice = 0; choice < 3; ++choice) {
    expect_same(engine.of("choices", choice), expected[static_cast<size_t>(choice)], str("choice ", choice));
  }
}

TEST(Choices, choices_share_the_prompt_and_end_independently) {
  SimEngine engine({});
  Request request = make_request("a", make_prompt(18, 1), 20, 1.0);
  request.params.n = 4;
  request.params.stop_token_ids = {3, 4};
  engine.add(request);
  engine.run();
  const auto reference = alone(request, {});
  for (int32_t choice = 0; choice < 4; ++choice) {
    EXPECT_EQ(engine.of("a", choice).num_cached_tokens, choice ? 16 : 0);
    expect_same(engine.of("a", choice), reference.at(static_cast<size_t>(choice)), str("choice ", choice));
  }
  EXPECT_NE(engine.of("a", 0).tokens, engine.of("a", 1).tokens);
}

TEST(Choices, choices_without_the_prefix_cache_compute_the_prompt_once) {
  for (const int64_t length : {15, 16, 17, 18, 60}) {  // in blocks of 4, in chunks of 20
    SimEngine engine({.max_num_batched_tokens = 20, .prefix_cache = false});
    Request request = make_request("a", make_prompt(length, 1), 20, 1.0);
    request.params.n = 4;
    engine.add(request);
    int64_t num_copies = 0, num_prompt_tokens = 0;
    while (engine.has_work()) {
      engine.step();
      num_copies += std::ssize(engine.last_plan().copies);
      for (const PlannedSeq& planned : engine.last_plan().seqs) {
        num_prompt_tokens += std::max<int64_t>(0, std::min(planned.end, length) - planned.begin);
      }
    }
    EXPECT_EQ(num_prompt_tokens, length + 3) << "the last token of the prompt once for each other choice";
    EXPECT_EQ(num_copies, (length - 1) % 4 ? 3 : 0);
    EXPECT_EQ(engine.of("a", 1).num_cached_tokens, 0);
    const auto reference = alone(request, {});
    for (int32_t choice = 0; choice < 4; ++choice) {
      expect_same(engine.of("a", choice), reference.at(static_cast<size_t>(choice)), str("choice ", choice));
    }
  }
}

TEST(Choices, a_choice_that_starts_late_copies_the_block_that_is_not_full) {
  SimEngine engine({.max_num_seqs = 2});
  Request request = make_request("a", make_prompt(18, 1), 6, 1.0);
  request.params.n = 3;
  engine.add(make_request("first", make_prompt(3, 2), 3));
  engine.add(request);
  int64_t num_copies = 0;
  while (engine.has_work()) {
    engine.step();
    num_copies += std::ssize(engine.last_plan().copies);
  }
  EXPECT_EQ(num_copies, 2);  // choice 1 joins choice 0, choice 2 joins choice 1
  EXPECT_EQ(engine.of("a", 1).num_cached_tokens, 16) << "what was copied did not come from the prefix cache";
  EXPECT_EQ(engine.stats().prefix_cache_hits, 2 * 16);
  const auto reference = alone(request, {});
  for (int32_t choice = 0; choice < 3; ++choice) {
    expect_same(engine.of("a", choice), reference.at(static_cast<size_t>(choice)), str("choice ", choice));
  }
}

TEST(Choices, prompt_logprobs_are_reported_once_by_choice_0_even_after_a_preemption) {
  SimOptions options{.num_blocks = 16, .max_num_batched_tokens = 5};
  Request request = make_request("a", make_prompt(20, 1), 4);
  request.params.prompt_logprobs = 2;
  request.params.n = 2;
  int calls = 0;
  options.hooks.fail_allocation = [&] { return ++calls >= 15 && calls <= 17; };
  SimEngine engine(options);
  engine.add(make_request("first", make_prompt(20, 2), 8));
  engine.add(request);
  engine.run();
  EXPECT_GT(engine.stats().num_preemptions, 0);
  const auto reference = alone(request, options);
  EXPECT_EQ(reference.at(0).prompt_logprobs.size(), 19u);
  EXPECT_TRUE(reference.at(1).prompt_logprobs.empty());
  for (int32_t choice = 0; choice < 2; ++choice) {
    expect_same(engine.of("a", choice), reference.at(static_cast<size_t>(choice)), str("choice ", choice));
  }
}

}  // namespace
}  // namespace pagoda::sim

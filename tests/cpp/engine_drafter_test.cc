// What is guessed from a text, how guesses are judged, and what a token of a step is found to cost.
#include <gtest/gtest.h>

#include "engine/drafter.h"
#include "engine/step_cost.h"

namespace pagoda {
namespace {

constexpr DraftRules kRules{.max_tokens = 4, .lookup_max = 3, .lookup_min = 2};

std::vector<int32_t> guess(const std::vector<int32_t>& tokens, const DraftRules& rules = kRules) {
  Drafter drafter;
  drafter.guess(tokens, rules);
  return {drafter.guessed().begin(), drafter.guessed().end()};
}

using Tokens = std::vector<int32_t>;

TEST(Drafter, guesses_what_followed_the_last_tokens_before) {
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 6, 9, 1, 2}), (Tokens{3, 4, 5, 6}));
}

TEST(Drafter, guesses_nothing_where_too_few_tokens_match) {
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 2}), Tokens{});
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 2}, {.max_tokens = 4, .lookup_max = 3, .lookup_min = 1}), (Tokens{3, 4, 5, 2}));
  EXPECT_EQ(guess({7}), Tokens{});
  EXPECT_EQ(guess({7, 7}), Tokens{});
  EXPECT_EQ(guess({}), Tokens{});
}

TEST(Drafter, the_longest_match_counts_and_of_equal_ones_the_latest) {
  EXPECT_EQ(guess({5, 1, 2, 30, 0, 6, 1, 2, 31, 0, 5, 1, 2}).front(), 30);
  EXPECT_EQ(guess({5, 1, 2, 30, 0, 5, 1, 2, 31, 0, 5, 1, 2}).front(), 31);
  EXPECT_EQ(guess({4, 5, 1, 2, 30, 3, 5, 1, 2, 31, 4, 5, 1, 2}).front(), 31) << "no more than lookup_max tokens are compared";
}

TEST(Drafter, a_repetition_goes_on) {
  EXPECT_EQ(guess({9, 7, 7, 7}), (Tokens{7, 7, 7, 7}));
  EXPECT_EQ(guess({1, 2, 3, 1, 2, 3, 1, 2}), (Tokens{3, 1, 2, 3}));
}

TEST(Drafter, a_repeated_guess_gives_the_same) {
  Drafter drafter;
  const Tokens tokens{1, 2, 3, 1, 2};
  drafter.guess(tokens, kRules);
  drafter.guess(tokens, kRules);
  EXPECT_EQ(Tokens(drafter.guessed().begin(), drafter.guessed().end()), (Tokens{3, 1, 2, 3}));
}

TEST(Drafter, true_guesses_make_drafts_long_and_false_ones_end_them) {
  Drafter drafter;
  const Tokens tokens{1, 2, 3, 4, 5, 6, 1, 2};
  drafter.guess(tokens, kRules);
  EXPECT_EQ(drafter.num_worthwhile(0.2), 2) << "at first half of them are expected to come true";
  for (int i = 0; i < 20; ++i) drafter.learn(Tokens{3, 4, 5});
  EXPECT_EQ(drafter.num_worthwhile(0.2), 4);
  EXPECT_EQ(drafter.num_worthwhile(1), 0);
  for (int i = 0; i < 20; ++i) drafter.learn(Tokens{8});
  EXPECT_EQ(drafter.num_worthwhile(0.2), 0);
  for (int i = 0; i < 4; ++i) drafter.learn(Tokens{3});
  EXPECT_GT(drafter.num_worthwhile(0.2), 0) << "guesses that no step tried are judged too";
}

TEST(Drafter, learns_nothing_without_a_guess) {
  Drafter drafter;
  drafter.learn(Tokens{1, 2});
  EXPECT_EQ(drafter.acceptance(), 0.5);
}

TEST(StepCost, finds_what_a_token_costs) {
  StepCost cost;
  EXPECT_GT(cost.token_price(1), 0);
  for (int i = 0; i < 50; ++i) {
    const int64_t num_tokens = 1 + i % 6;
    cost.add(num_tokens, 0.009 + 0.001 * static_cast<double>(num_tokens));
  }
  EXPECT_NEAR(cost.token_price(1), 0.1, 0.02);
  EXPECT_NEAR(cost.token_price(16), 16.0 / 25, 0.05);
}

TEST(StepCost, a_step_that_was_held_up_hardly_matters) {
  StepCost cost;
  for (int i = 0; i < 50; ++i) {
    const int64_t num_tokens = 1 + i % 6;
    cost.add(num_tokens, i % 10 == 5 ? 1.0 : 0.009 + 0.001 * static_cast<double>(num_tokens));
  }
  EXPECT_LT(cost.token_price(1), 0.3);
}

TEST(StepCost, a_first_step_that_took_long_is_forgotten) {
  StepCost cost;
  cost.add(1, 1.0);
  for (int i = 0; i < 20; ++i) {
    const int64_t num_tokens = 1 + i % 6;
    cost.add(num_tokens, 0.009 + 0.001 * static_cast<double>(num_tokens));
  }
  EXPECT_NEAR(cost.token_price(1), 0.1, 0.02);
}

TEST(StepCost, steps_of_one_size_leave_it_at_the_guess) {
  StepCost cost;
  for (int i = 0; i < 500; ++i) cost.add(1, i % 2 ? 0.010 : 0.011);
  EXPECT_NEAR(cost.token_price(1), 0.2, 0.02);
}

}  // namespace
}  // namespace pagoda

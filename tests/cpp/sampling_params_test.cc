// Validation of sampling parameters and the rows that the sampler builds from a sequence.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/check.h"
#include "sampling/params.h"
#include "sampling/sampler.h"

namespace pagoda {
namespace {

std::string refusal(const SamplingParams& params) {
  try {
    params.validate();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(SamplingParams, a_value_out_of_range_is_named_with_what_is_allowed) {
  SamplingParams params;
  params.top_p = 1.5;
  EXPECT_EQ(refusal(params), "top_p must be in (0, 1], got 1.5");
  params = {};
  params.temperature = -0.1;
  EXPECT_EQ(refusal(params), "temperature must be in [0, 2], got -0.1");
  params = {};
  params.repetition_penalty = 0;
  EXPECT_EQ(refusal(params), "repetition_penalty must be > 0, got 0");
  params = {};
  params.frequency_penalty = std::nan("");
  EXPECT_EQ(refusal(params), "frequency_penalty must be in [-2, 2], got nan");
  params = {};
  params.max_tokens = 0;
  EXPECT_EQ(refusal(params), "max_tokens must be >= 1, got 0");
  params = {};
  params.top_k = -2;
  EXPECT_EQ(refusal(params), "top_k must be >= -1, got -2");
}

TEST(SamplingParams, defaults_and_limits_are_valid) {
  SamplingParams params;
  EXPECT_EQ(refusal(params), "");
  params.temperature = 2, params.top_p = 1e-12, params.top_k = -1, params.presence_penalty = -2, params.n = 128;
  EXPECT_EQ(refusal(params), "");
}

TEST(SamplingParams, lists_are_bounded_and_hold_no_empty_text) {
  SamplingParams params;
  params.stop = {""};
  EXPECT_EQ(refusal(params), "stop must not hold an empty string");
  params.stop.assign(17, "x");
  EXPECT_EQ(refusal(params), "stop may have at most 16 entries, got 17");
  params.stop = {std::string(257, 'x')};
  EXPECT_EQ(refusal(params), "stop strings may have at most 256 bytes, got 257");
  params = {};
  params.min_tokens = 5, params.max_tokens = 4;
  EXPECT_EQ(refusal(params), "min_tokens must be <= max_tokens, got 5 and 4");
}

TEST(SamplingParams, token_ids_outside_the_vocabulary_are_refused) {
  for (int64_t token : {int64_t{-1}, int64_t{100}, int64_t{1} << 40}) {
    SamplingParams params;
    params.stop_token_ids = {token};
    EXPECT_THROW(params.validate_for_vocab(100), InvalidArgument);
    params = {};
    params.logit_bias[token] = 1;
    EXPECT_THROW(params.validate_for_vocab(100), InvalidArgument);
    params = {};
    params.allowed_token_ids = {token};
    EXPECT_THROW(params.validate_for_vocab(100), InvalidArgument);
  }
}

TEST(SamplingParams, tiny_temperature_and_top_k_of_one_are_greedy) {
  SamplingParams params;
  EXPECT_FALSE(params.greedy());
  params.temperature = 1e-9;
  EXPECT_TRUE(params.greedy());
  params.temperature = 1, params.top_k = 1;
  EXPECT_TRUE(params.greedy());
}

struct Row {
  SampleBatch batch;
  const SampleRow& row() const { return batch.rows.back(); }
  std::set<int32_t> banned() const {
    std::set<int32_t> tokens;
    for (int i = row().edits_begin; i < row().edits_end; ++i) {
      if (std::isinf(batch.edits[static_cast<size_t>(i)].bias)) tokens.insert(batch.edits[static_cast<size_t>(i)].token);
    }
    return tokens;
  }
};

Row make_row(const SamplingParams& params, std::vector<int32_t> tokens, int64_t num_prompt,
             std::vector<std::vector<int32_t>> bad_words = {}, int64_t num_unknown = 0) {
  Row result;
  result.batch.vocab_size = 100;
  const std::vector<int32_t> eos{2, 3};
  TokenCounts counts;
  counts.add_prompt(std::span(tokens).first(static_cast<size_t>(num_prompt)));
  for (size_t i = static_cast<size_t>(num_prompt); i < tokens.size(); ++i) counts.add_output(tokens[i]);
  add_sample_row(result.batch, {&params, 7, tokens, num_unknown, num_prompt, &counts, bad_words, eos});
  return result;
}

TEST(Sampler, the_counter_is_the_position_of_the_token_to_draw) { EXPECT_EQ(make_row({}, {1, 2, 3, 4}, 2).row().counter, 4u); }

TEST(Sampler, tokens_that_are_not_known_yet_count_as_output) {
  SamplingParams params;
  params.min_tokens = 3;
  EXPECT_EQ(make_row(params, {1, 2, 3, 4}, 2).batch.edits.size(), 2u) << "the ends of sequence are banned";
  const Row behind = make_row(params, {1, 2, 3, 4}, 2, {}, 1);
  EXPECT_EQ(behind.row().counter, 5u);
  EXPECT_TRUE(behind.batch.edits.empty());
}

TEST(Sampler, end_and_stop_tokens_are_banned_before_min_tokens_only) {
  SamplingParams params;
  params.min_tokens = 2;
  params.stop_token_ids = {50};
  EXPECT_EQ(make_row(params, {1, 9}, 1).banned(), (std::set<int32_t>{2, 3, 50}));
  EXPECT_EQ(make_row(params, {1, 9, 9}, 1).banned(), (std::set<int32_t>{}));
}

TEST(Sampler, a_bad_word_bans_its_last_token_only_after_its_other_tokens) {
  EXPECT_EQ(make_row({}, {1, 8}, 1, {{8, 9}, {4}, {7, 9, 10}}).banned(), (std::set<int32_t>{9, 4}));
  EXPECT_EQ(make_row({}, {8}, 1, {{8, 9}}).banned(), (std::set<int32_t>{})) << "the prompt does not count";
}

TEST(Sampler, a_bias_is_clamped_and_minus_100_bans) {
  SamplingParams params;
  params.logit_bias = {{5, -100.0}, {6, 1e30}};
  const Row row = make_row(params, {1}, 1);
  EXPECT_EQ(row.banned(), (std::set<int32_t>{5}));
  EXPECT_EQ(row.batch.edits[1].bias, 100.0f);
}

TEST(Sampler, counts_know_prompt_and_output) {
  SamplingParams params;
  params.frequency_penalty = 1;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 300; ++i) tokens.push_back(i % 90);
  const Row row = make_row(params, tokens, 95);
  ASSERT_EQ(row.row().counts_end - row.row().counts_begin, 90);
  std::vector<int32_t> want(90, 0);
  for (size_t i = 95; i < tokens.size(); ++i) ++want[static_cast<size_t>(tokens[i])];
  for (const TokenCount& entry : row.batch.counts) EXPECT_EQ(entry.output_count, want[static_cast<size_t>(entry.token)]);
}

TEST(Sampler, choices_of_one_seed_have_different_reproducible_keys) {
  std::set<uint64_t> keys;
  for (int32_t choice = 0; choice < 128; ++choice) keys.insert(choice_key(-5, choice));
  EXPECT_EQ(keys.size(), 128u);
  EXPECT_EQ(choice_key(-5, 3), choice_key(-5, 3));
  EXPECT_EQ(choice_key(11, 0), 11u);
}

}  // namespace
}  // namespace pagoda

// Embeddings: what is pooled, what comes from the cache, what is refused. That chunks, batches and preemptions change nothing
// is said by engine_equations_test.cc, whose requests include embeddings.
#include <gtest/gtest.h>

#include "core/check.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

Request embedding_of(std::string id, std::vector<int32_t> prompt, Pooling pooling) {
  Request request = make_request(std::move(id), std::move(prompt), 1);
  request.pooling = pooling;
  return request;
}

/// The simulated model's hidden state after the first `count` tokens.
std::vector<double> hidden_after(const std::vector<int32_t>& tokens, size_t count) {
  const uint64_t context = context_of(std::span(tokens).first(count));
  return {static_cast<double>(logit(context, 1000) / 3), static_cast<double>(logit(context, 1001) / 3)};
}

TEST(Pooling, mean_is_that_of_all_positions_and_last_is_the_last_one) {
  const std::vector<int32_t> prompt = make_prompt(23, 5);
  SimEngine engine({.max_num_batched_tokens = 9});
  engine.add(embedding_of("mean", prompt, Pooling::mean));
  engine.add(embedding_of("last", prompt, Pooling::last));
  engine.run();
  std::vector<double> sum(2);
  for (size_t count = 1; count <= prompt.size(); ++count) {
    for (size_t i = 0; i < 2; ++i) sum[i] += hidden_after(prompt, count)[i];
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(engine.of("mean").embedding.at(i), static_cast<float>(sum[i] / 23));
    EXPECT_EQ(engine.of("last").embedding.at(i), static_cast<float>(hidden_after(prompt, 23)[i]));
  }
  for (const char* id : {"mean", "last"}) {
    EXPECT_EQ(engine.of(id).finish, FinishReason::stop);
    EXPECT_TRUE(engine.of(id).tokens.empty());
  }
  EXPECT_EQ(engine.stats().num_generation_tokens, 0);
}

TEST(Pooling, the_mean_takes_nothing_from_the_prefix_cache_and_the_last_what_there_is) {
  const std::vector<int32_t> prompt = make_prompt(21, 5);
  SimEngine engine({});
  for (const char* id : {"first", "second"}) {
    for (const Pooling pooling : {Pooling::mean, Pooling::last}) {
      engine.add(embedding_of(str(id, static_cast<int>(pooling)), prompt, pooling));
      engine.run();
    }
  }
  EXPECT_EQ(engine.of("first1").num_cached_tokens, 0);
  EXPECT_EQ(engine.of("second1").num_cached_tokens, 0);
  EXPECT_EQ(engine.of("first2").num_cached_tokens, 20);  // five blocks of four
  EXPECT_EQ(engine.of("second2").num_cached_tokens, 20);
  EXPECT_EQ(engine.of("first1").embedding, engine.of("second1").embedding);
  EXPECT_EQ(engine.of("first2").embedding, engine.of("second2").embedding);
}

TEST(Pooling, a_prompt_may_fill_the_context_to_its_end) {
  SimEngine engine({.max_model_len = 20});
  engine.add(embedding_of("fits", make_prompt(20), Pooling::mean));
  engine.run();
  EXPECT_EQ(engine.of("fits").finish, FinishReason::stop);
  EXPECT_THROW(engine.add(embedding_of("too long", make_prompt(21), Pooling::mean)), InvalidArgument);
}

TEST(Pooling, only_one_choice_without_prompt_logprobs_is_possible) {
  SimEngine engine({});
  Request two = embedding_of("two", make_prompt(3), Pooling::last);
  two.params.n = 2;
  EXPECT_THROW(engine.add(two), InvalidArgument);
  Request scored = embedding_of("scored", make_prompt(3), Pooling::last);
  scored.params.prompt_logprobs = 1;
  EXPECT_THROW(engine.add(scored), InvalidArgument);
}

TEST(Pooling, hidden_states_that_are_no_numbers_end_their_request_alone) {
  Faults faults;
  faults.nan_after = 7;
  SimEngine engine({.faults = &faults});
  engine.add(embedding_of("broken", {1, 7, 2}, Pooling::mean));
  engine.add(embedding_of("whole", {1, 2, 3}, Pooling::mean));
  engine.run();
  EXPECT_EQ(engine.of("broken").finish, FinishReason::error);
  EXPECT_EQ(engine.of("broken").error, "the model gave no usable hidden states");
  EXPECT_TRUE(engine.of("broken").embedding.empty());
  EXPECT_EQ(engine.of("whole").finish, FinishReason::stop);
}

}  // namespace
}  // namespace pagoda::sim

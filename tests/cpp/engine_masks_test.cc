// Sequences whose tokens are restricted from outside, through the real scheduler and runner, with a worker thread that answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <semaphore>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/mask_exchange.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

using std::chrono::milliseconds;

/// Answers jobs by a rule until it is destroyed; remembers each sequence's tokens.
class Worker {
 public:
  /// What may follow `tokens`: token ids, or nothing for the end. Throws to fail.
  using Rule = std::function<std::vector<int32_t>(const std::vector<int32_t>& tokens)>;

  Worker(std::shared_ptr<MaskExchange> exchange, Rule rule) : exchange_(std::move(exchange)), rule_(std::move(rule)) {
    thread_ = std::thread([this] { work(); });
  }
  ~Worker() {
    exchange_->stop();
    thread_.join();
  }

  /// Waits until the ends of `count` sequences were told.
  bool sees_closed(size_t count) {
    for (; count > 0; --count) {
      if (!closed_.try_acquire_for(std::chrono::seconds(10))) return false;
    }
    return !closed_.try_acquire();
  }

 private:
  void work() {
    while (const auto jobs = exchange_->take(3, 50)) {
      for (const MaskJob& job : *jobs) answer(job);
    }
  }

  void answer(const MaskJob& job) {
    std::vector<int32_t>& tokens = tokens_[{job.request_id(), job.choice()}];
    if (job.token() == TokenMask::kClosed) return closed_.release();
    if (job.token() != TokenMask::kNoToken) tokens.push_back(job.token());
    try {
      const std::vector<int32_t> allowed = rule_(tokens);
      std::ranges::fill(job.words(), 0u);
      for (int32_t token : allowed) job.words()[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
      job.finish(allowed.empty(), {});
    } catch (const std::exception& failure) {
      job.finish(false, failure.what());
    }
  }

  std::shared_ptr<MaskExchange> exchange_;
  Rule rule_;
  std::map<std::pair<std::string, int32_t>, std::vector<int32_t>> tokens_;
  std::counting_semaphore<> closed_{0};
  std::thread thread_;
};

/// 5, 6, 7, ... and the end after `length` tokens.
Worker::Rule counting(size_t length) {
  return [length](const std::vector<int32_t>& tokens) -> std::vector<int32_t> {
    if (tokens.size() == length) return {};
    return {tokens.empty() ? 5 : tokens.back() + 1};
  };
}

std::vector<int32_t> counted(int32_t length) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < length; ++i) tokens.push_back(5 + i);
  return tokens;
}

Request guided(std::string id, int64_t num_prompt, std::shared_ptr<MaskExchange> masks, int64_t max_tokens = 50) {
  Request request = make_request(std::move(id), make_prompt(num_prompt, 3), max_tokens, 1);
  request.masks = std::move(masks);
  return request;
}

class Masks : public ::testing::Test {
 protected:
  void TearDown() override { exchange_->stop(); }

  SimOptions options_;
  std::shared_ptr<MaskExchange> exchange_ = std::make_shared<MaskExchange>(options_.vocab_size);
};

TEST_F(Masks, decide_every_token_and_the_end) {
  Worker worker(exchange_, counting(20));
  SimEngine engine(options_);
  engine.add(guided("a", 9, exchange_));
  engine.run();
  EXPECT_EQ(engine.of("a").tokens, counted(20));
  EXPECT_EQ(engine.of("a").finish, FinishReason::stop);
  EXPECT_EQ(engine.of("a").stop_token, -1);
  EXPECT_TRUE(worker.sees_closed(1));
}

TEST_F(Masks, hold_through_preemption_chunks_choices_and_steps_in_flight) {
  Worker worker(exchange_, counting(30));
  options_.num_blocks = 24;
  options_.max_num_batched_tokens = 7;
  options_.steps_in_flight = 2;
  SimEngine engine(options_);
  Request request = guided("a", 20, exchange_);
  request.params.n = 3;
  engine.add(request);
  engine.add(guided("b", 17, exchange_, 12));
  const Request free = make_request("free", make_prompt(11, 5), 40, 1);
  engine.add(free);
  engine.run();
  EXPECT_GT(engine.stats().num_preemptions, 0);
  for (int32_t choice = 0; choice < 3; ++choice) EXPECT_EQ(engine.of("a", choice).tokens, counted(30));
  EXPECT_EQ(engine.of("b").tokens, counted(12));
  EXPECT_EQ(engine.of("b").finish, FinishReason::length);
  expect_same(engine.of("free"), alone(free, options_)[0], "free");
  EXPECT_TRUE(worker.sees_closed(4));
}

TEST_F(Masks, leave_the_draw_to_the_seed) {
  const auto even = [](const std::vector<int32_t>&) {
    std::vector<int32_t> tokens;
    for (int32_t token = 0; token < 40; token += 2) tokens.push_back(token);
    return tokens;
  };
  Worker worker(exchange_, even);
  SimEngine engine(options_);
  Request by_list = guided("list", 9, nullptr, 25);
  for (int64_t token = 0; token < 40; token += 2) by_list.params.allowed_token_ids.push_back(token);
  engine.add(by_list);
  engine.add(guided("mask", 9, exchange_, 25));
  engine.run();
  EXPECT_EQ(engine.of("mask").tokens, engine.of("list").tokens);
}

TEST_F(Masks, allow_only_what_the_request_allows_too) {
  Worker worker(exchange_, [](const std::vector<int32_t>&) { return std::vector<int32_t>{3, 4, 33}; });
  SimEngine engine(options_);
  Request request = guided("a", 5, exchange_, 30);
  request.params.allowed_token_ids = {4, 33, 34};
  engine.add(request);
  Request nothing = guided("b", 5, exchange_, 30);
  nothing.params.allowed_token_ids = {7};
  engine.add(nothing);
  engine.run();
  const std::vector<int32_t>& tokens = engine.of("a").tokens;
  EXPECT_EQ(std::ranges::count(tokens, 4) + std::ranges::count(tokens, 33), 30);
  EXPECT_GT(std::ranges::count(tokens, 33), 0);
  EXPECT_EQ(engine.of("b").finish, FinishReason::error);
}

TEST_F(Masks, end_a_sequence_before_min_tokens_when_nothing_can_follow) {
  Worker worker(exchange_, counting(4));
  options_.eos_tokens = {2};
  SimEngine engine(options_);
  Request request = guided("a", 5, exchange_);
  request.params.min_tokens = 10;
  request.params.ignore_eos = true;
  engine.add(request);
  engine.run();
  EXPECT_EQ(engine.of("a").tokens, counted(4));
  EXPECT_EQ(engine.of("a").finish, FinishReason::stop);
}

TEST_F(Masks, give_an_empty_output_its_prompt_logprobs) {
  Worker worker(exchange_, counting(0));
  SimEngine engine(options_);
  Request request = guided("a", 5, exchange_);
  request.params.prompt_logprobs = 1;
  engine.add(request);
  engine.run();
  EXPECT_TRUE(engine.of("a").tokens.empty());
  EXPECT_EQ(engine.of("a").finish, FinishReason::stop);
  EXPECT_EQ(engine.of("a").prompt_logprobs.size(), 4u);
}

TEST_F(Masks, that_fail_end_their_sequence_alone) {
  Worker worker(exchange_, [](const std::vector<int32_t>& tokens) -> std::vector<int32_t> {
    if (tokens.size() == 3) throw std::runtime_error("the grammar is at its wits' end");
    return {9};
  });
  SimEngine engine(options_);
  engine.add(guided("a", 5, exchange_));
  const Request free = make_request("free", make_prompt(11, 5), 40, 1);
  engine.add(free);
  engine.run();
  EXPECT_EQ(engine.of("a").finish, FinishReason::error);
  EXPECT_EQ(engine.of("a").error, "the grammar is at its wits' end");
  EXPECT_EQ(engine.of("a").tokens.size(), 3u);
  expect_same(engine.of("free"), alone(free, options_)[0], "free");
}

TEST_F(Masks, that_do_not_come_end_their_sequence_alone) {
  options_.mask_timeout = milliseconds(20);
  SimEngine engine(options_);
  engine.add(guided("a", 5, exchange_));
  const Request free = make_request("free", make_prompt(11, 5), 40, 1);
  engine.add(free);
  engine.run();
  EXPECT_EQ(engine.of("a").finish, FinishReason::error);
  EXPECT_EQ(engine.of("a").error, "the allowed tokens were not computed in time");
  expect_same(engine.of("free"), alone(free, options_)[0], "free");
}

TEST_F(Masks, that_come_too_late_change_nothing) {
  const auto mask = exchange_->open("a", 0);
  EXPECT_EQ(mask->wait(std::chrono::steady_clock::now()), TokenMask::State::failed);
  const auto jobs = exchange_->take(8, 0);
  ASSERT_EQ(jobs->size(), 1u);
  jobs->front().finish(false, {});
  EXPECT_EQ(mask->wait(std::chrono::steady_clock::now()), TokenMask::State::failed);
}

TEST_F(Masks, are_left_to_others_until_they_are_late) {
  const auto mask = exchange_->open("a", 0);
  EXPECT_TRUE(exchange_->take(1, 0, 1000000)->empty());
  ASSERT_EQ(exchange_->take(1, 100000, 5)->size(), 1u);
  EXPECT_TRUE(exchange_->take(1, 10, 5)->empty());
  std::thread stopper([this] { exchange_->stop(); });
  EXPECT_FALSE(exchange_->take(1, 100000, 50000).has_value());
  stopper.join();
}

TEST_F(Masks, are_not_waited_for_once_the_exchange_has_stopped) {
  const auto mask = exchange_->open("a", 0);
  std::thread stopper([this] { exchange_->stop(); });
  EXPECT_EQ(mask->wait(std::chrono::steady_clock::now() + std::chrono::hours(1)), TokenMask::State::failed);
  stopper.join();
  EXPECT_FALSE(exchange_->take(1, 100000).has_value());
}

TEST_F(Masks, of_an_aborted_sequence_are_closed) {
  Worker worker(exchange_, [](const std::vector<int32_t>&) { return std::vector<int32_t>{9}; });
  SimEngine engine(options_);
  engine.add(guided("a", 5, exchange_));
  engine.add(guided("waits", 150, exchange_));
  for (int i = 0; i < 3; ++i) engine.step();
  engine.abort("a");
  engine.abort("waits");
  engine.run();
  EXPECT_TRUE(worker.sees_closed(2));
}

}  // namespace
}  // namespace pagoda::sim

// EngineOptions::validate and Limits: what is refused, and with which numbers.
#include <gtest/gtest.h>

#include <limits>

#include "core/check.h"
#include "engine/engine.h"
#include "engine/limits.h"
#include "engine/options.h"
#include "sim_engine.h"

namespace pagoda {
namespace {

using sim::make_prompt;
using sim::make_request;

/// The text of the InvalidArgument that `action` throws; empty if it throws none.
template <class Action>
std::string refusal(Action&& action) {
  try {
    action();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

std::string option_refusal(const std::function<void(EngineOptions&)>& change) {
  EngineOptions options;
  change(options);
  return refusal([&] { options.validate(); });
}

TEST(EngineOptions, defaults_are_valid) {
  EXPECT_EQ(option_refusal([](EngineOptions&) {}), "");
}

TEST(EngineOptions, a_refusal_names_the_option_and_what_is_allowed) {
  EXPECT_EQ(option_refusal([](auto& o) { o.block_size = 3; }), "block_size must be a power of two, got 3");
  EXPECT_EQ(option_refusal([](auto& o) { o.block_size = 0; }), "block_size must be in [1, 256], got 0");
  EXPECT_EQ(option_refusal([](auto& o) { o.device = "gpu"; }),
            "device must be one of auto, cpu, cuda, cuda:N with N the number of a GPU, got \"gpu\"");
  EXPECT_EQ(option_refusal([](auto& o) { o.device = "cuda:-1"; }),
            "device must be one of auto, cpu, cuda, cuda:N with N the number of a GPU, got \"cuda:-1\"");
  EXPECT_EQ(option_refusal([](auto& o) { o.isa = ""; }),
            "isa must be one of auto, amx, avx512, avx2_vnni, avx2, portable, got \"\"");
  EXPECT_EQ(option_refusal([](auto& o) { o.kv_cache_dtype = "f64"; }),
            "kv_cache_dtype must be one of auto, bf16, f16, fp8, int8, f32, got \"f64\"");
  EXPECT_EQ(option_refusal([](auto& o) { o.scheduling_policy = "sjf"; }),
            "scheduling_policy must be one of fcfs, priority, fair, got \"sjf\"");
  EXPECT_EQ(option_refusal([](auto& o) { o.memory_utilization = 1.5; }), "memory_utilization must be in (0, 1], got 1.5");
  EXPECT_EQ(option_refusal([](auto& o) { o.speculative.emplace().num_speculative_tokens = 65; }),
            "speculative.num_speculative_tokens must be in [1, 64], got 65");
  EXPECT_EQ(option_refusal([](auto& o) { o.num_kv_blocks = o.kv_cache_memory = 1; }),
            "kv_cache_memory and num_kv_blocks both set the size of the KV cache; give one of them");
}

TEST(EngineOptions, speculation_plans_rows_for_its_tokens) {
  EngineOptions options;
  const auto rows = [&] { return make_limits(options, 100, 100, 100).max_logit_rows(); };
  const int64_t without = rows();
  options.speculative.emplace().num_speculative_tokens = 3;
  EXPECT_EQ(rows(), without + Limits::kMaxDraftRows);
  options.max_num_seqs = 2;
  EXPECT_EQ(rows(), 2 + Limits::kMaxPromptRows + 6);
}

Limits limits_of(int64_t num_blocks, int64_t max_model_len) {
  sim::SimOptions options;
  options.num_blocks = num_blocks;
  options.max_model_len = max_model_len;
  return options.limits();
}

std::string request_refusal(const Limits& limits, const Request& request) {
  return refusal([&] { limits.validate(request); });
}

TEST(Limits, a_request_that_needs_exactly_everything_is_taken_and_one_token_more_is_not) {
  const Limits blocks_bind = limits_of(4, 100);
  EXPECT_EQ(request_refusal(blocks_bind, make_request("a", make_prompt(10), 6)), "");
  EXPECT_EQ(request_refusal(blocks_bind, make_request("a", make_prompt(10), 7)),
            "The KV cache holds 16 tokens. However, your request has 10 tokens in the prompt and max_tokens = 7.");
  const Limits length_binds = limits_of(100, 16);
  EXPECT_EQ(request_refusal(length_binds, make_request("a", make_prompt(10), 6)), "");
  EXPECT_EQ(request_refusal(length_binds, make_request("a", make_prompt(10), 7)),
            "This model's maximum context length is 16 tokens. However, your request has 10 tokens in the prompt and "
            "max_tokens = 7.");
  EXPECT_EQ(request_refusal(length_binds, make_request("a", make_prompt(16), 1)),
            "This model's maximum context length is 16 tokens, output included. However, your prompt has 16 tokens.");
}

TEST(Limits, an_absurd_max_tokens_does_not_overflow) {
  const auto request = make_request("a", make_prompt(10), std::numeric_limits<int64_t>::max());
  EXPECT_NE(request_refusal(limits_of(4, 100), request), "");
}

TEST(Limits, without_max_tokens_the_output_may_fill_what_the_prompt_leaves) {
  Request request = make_request("a", make_prompt(10), 1);
  request.params.max_tokens.reset();
  EXPECT_EQ(limits_of(4, 100).max_output(request), 6);
  EXPECT_EQ(limits_of(100, 40).max_output(request), 30);
  request.prompt = make_prompt(16);
  EXPECT_NE(request_refusal(limits_of(4, 100), request), "");
}

TEST(Limits, refuses_tokens_the_model_does_not_have) {
  const Limits limits = limits_of(64, 100);
  EXPECT_EQ(request_refusal(limits, make_request("a", {1, 40}, 1)),
            "prompt must hold token ids in [0, 40), got 40 at position 1");
  EXPECT_EQ(request_refusal(limits, make_request("a", {-1}, 1)), "prompt must hold token ids in [0, 40), got -1 at position 0");
  EXPECT_EQ(request_refusal(limits, make_request("a", {}, 1)), "prompt must hold at least one token");
  Request request = make_request("a", {1}, 1);
  request.bad_words = {{2, 99}};
  EXPECT_EQ(request_refusal(limits, request), "bad_words must hold token ids in [0, 40), got 99 at position 1");
  request = make_request("a", {1}, 1);
  request.params.stop_token_ids = {40};
  EXPECT_NE(request_refusal(limits, request).find("stop_token_ids"), std::string::npos);
}

TEST(Limits, refuses_a_request_without_a_seed_and_one_with_more_choices_than_may_wait) {
  Limits limits = limits_of(64, 100);
  Request request = make_request("a", {1}, 1);
  request.params.seed.reset();
  EXPECT_EQ(request_refusal(limits, request), "seed must be set");
  limits.max_num_queued_seqs = 2;
  request = make_request("a", {1}, 1);
  request.params.n = 3;
  EXPECT_EQ(request_refusal(limits, request), "n must be <= max_num_queued_seqs = 2, got 3");
}

TEST(Limits, a_full_queue_is_overload_and_names_the_limit) {
  Limits limits = limits_of(64, 100);
  limits.max_num_queued_seqs = 5;
  Request request = make_request("a", make_prompt(10), 1);
  request.params.n = 2;
  limits.check_queue({3, 30}, request);
  try {
    limits.check_queue({4, 40, 0.7}, request);
    FAIL() << "a full queue took more";
  } catch (const Overloaded& error) {
    EXPECT_STREQ(
        error.what(),
        "the waiting queue is full: max_num_queued_seqs = 5, 4 waiting, 2 more asked for; its place would be 5, its wait "
        "about 4 s");
    EXPECT_EQ(error.retry_after, 2);
  }
}

TEST(Limits, a_queue_may_be_bounded_in_tokens_but_takes_any_one_prompt) {
  Limits limits = limits_of(64, 100);
  limits.max_num_queued_seqs = 5;
  limits.max_num_queued_tokens = 25;
  Request request = make_request("a", make_prompt(10), 1);
  limits.check_queue({1, 15}, request);
  limits.check_queue({0, 0}, make_request("b", make_prompt(50), 1));
  try {
    limits.check_queue({2, 16}, request);
    FAIL() << "a full queue took more";
  } catch (const Overloaded& error) {
    EXPECT_STREQ(
        error.what(),
        "the waiting queue is full: max_num_queued_tokens = 25, 16 prompt tokens waiting, 10 more asked for; its place "
        "would be 3");
    EXPECT_EQ(error.retry_after, 1);
  }
}

}  // namespace
}  // namespace pagoda

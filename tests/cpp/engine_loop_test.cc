// Engine: the loop thread, its inbox and outbox, failure and stop.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>

#include "core/check.h"
#include "engine/engine.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

using Clock = std::chrono::steady_clock;

EngineOptions options_of(const SimOptions& sim) {
  EngineOptions options;
  options.block_size = sim.block_size;
  options.max_num_seqs = sim.max_num_seqs;
  options.max_num_batched_tokens = sim.max_num_batched_tokens;
  options.max_num_queued_seqs = sim.max_num_queued_seqs;
  options.prefix_cache = sim.prefix_cache;
  options.watermark = 0;
  if (sim.rules.preemption == PreemptionMode::swap) options.preemption_mode = "swap";
  return options;
}

EngineParts parts_of(const SimOptions& sim) {
  EngineParts parts;
  parts.backend = std::make_unique<SimBackend>(sim.pads_decode_steps, static_cast<int>(sim.steps_in_flight));
  parts.model = std::make_unique<SimModel>(sim.vocab_size, sim.faults);
  parts.eos_tokens = sim.eos_tokens;
  parts.max_model_len = sim.max_model_len;
  parts.num_blocks = sim.num_blocks;
  parts.num_swap_blocks = sim.num_swap_blocks;
  parts.kv_dtype = DType::f32;
  parts.workspace_bytes =
      static_cast<size_t>(sim.limits().max_logit_rows() * sim.vocab_size) * sizeof(float) + Arena::kAlignment;
  return parts;
}

struct Running {
  explicit Running(const SimOptions& sim) : engine(options_of(sim), parts_of(sim)) {}

  /// Takes outputs until `num_choices` choices have finished, or nothing comes for 10 seconds.
  void drain(int num_choices) {
    const auto deadline = Clock::now() + std::chrono::seconds(10);
    while (num_choices > 0) {
      ASSERT_LT(Clock::now(), deadline) << num_choices << " choices did not finish";
      for (Output& output : engine.wait(100)) {
        Transcript& transcript = transcripts[{output.request_id, output.choice}];
        ASSERT_EQ(transcript.finish, FinishReason::none);
        transcript.tokens.insert(transcript.tokens.end(), output.tokens.begin(), output.tokens.end());
        transcript.finish = output.finish;
        transcript.error = output.error;
        num_choices -= output.finish != FinishReason::none;
      }
    }
  }

  Engine engine;
  std::map<std::pair<std::string, int32_t>, Transcript> transcripts;
};

/// Every test with one and with two steps in flight.
class EngineLoop : public testing::TestWithParam<size_t> {
 protected:
  static SimOptions options() {
    SimOptions options;
    options.steps_in_flight = GetParam();
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(StepsInFlight, EngineLoop, testing::Values(1, 2));

/// Seconds of CPU the whole process has used.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

TEST_P(EngineLoop, answers_requests_from_many_threads) {
  Running running(options());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i)
        running.engine.submit(make_request(str(t, "-", i), make_prompt(3 + i, static_cast<uint64_t>(t)), 8));
    });
  }
  running.drain(40);
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 4; ++t) {
    const auto reference = alone(make_request("x", make_prompt(9, static_cast<uint64_t>(t)), 8), {}).at(0);
    EXPECT_EQ((running.transcripts[{str(t, "-6"), 0}].tokens), reference.tokens);
  }
  const Stats stats = running.engine.stats();
  EXPECT_EQ(stats.num_finished_length, 40);
  EXPECT_EQ(stats.num_generation_tokens, 40 * 8);
  EXPECT_EQ(stats.num_running + stats.num_waiting, 0);
  EXPECT_EQ(stats.num_free_blocks, stats.num_kv_blocks);
  EXPECT_EQ(stats.kv_cache_usage, 0);
  EXPECT_GT(stats.num_steps, 0);
}

TEST_P(EngineLoop, submit_refuses_at_once_what_cannot_run) {
  Faults faults;
  faults.slow = true;
  SimOptions sim = options();
  sim.faults = &faults;
  Running running(sim);
  EXPECT_THROW(running.engine.submit(make_request("a", make_prompt(500), 1)), InvalidArgument);
  EXPECT_THROW(running.engine.submit(make_request("a", {}, 1)), InvalidArgument);
  running.engine.submit(make_request("a", make_prompt(3), 190));
  EXPECT_THROW(running.engine.submit(make_request("a", make_prompt(3), 1)), InvalidArgument) << "the id is live";
  running.drain(1);
  running.engine.submit(make_request("a", make_prompt(3), 1));
  running.transcripts.clear();
  running.drain(1);
}

TEST_P(EngineLoop, requests_submitted_while_held_begin_with_one_step) {
  Running running(options());
  running.engine.hold();
  running.engine.hold();
  for (int i = 0; i < 3; ++i) running.engine.submit(make_request(str(i), make_prompt(4), 5));
  running.engine.release();
  EXPECT_TRUE(running.engine.wait(50).empty());
  EXPECT_EQ(running.engine.stats().num_steps, 0);
  EXPECT_EQ(running.engine.stalled_seconds(), 0) << "a held loop does not hang";
  running.engine.release();
  running.drain(3);
  EXPECT_EQ(running.engine.stats().num_steps, 5);
  EXPECT_THROW(running.engine.release(), InternalError);
}

TEST_P(EngineLoop, a_held_engine_can_be_stopped) {
  Running running(options());
  running.engine.hold();
  running.engine.submit(make_request("a", make_prompt(4), 5));
  running.engine.stop();
  running.drain(1);
  EXPECT_EQ((running.transcripts[{"a", 0}].finish), FinishReason::abort);
}

TEST_P(EngineLoop, submit_says_when_the_queue_is_full_and_recovers) {
  Faults faults;
  faults.slow = true;
  SimOptions sim = options();
  sim.max_num_seqs = 1;
  sim.max_num_queued_seqs = 3;
  sim.faults = &faults;
  Running running(sim);
  int accepted = 0;
  try {
    for (;; ++accepted) running.engine.submit(make_request(str(accepted), make_prompt(4), 50));
  } catch (const Overloaded& error) {
    EXPECT_NE(std::string(error.what()).find("max_num_queued_seqs = 3"), std::string::npos);
  }
  EXPECT_GE(accepted, 3);
  running.drain(accepted);
  running.engine.submit(make_request("later", make_prompt(4), 5));
  running.drain(1);
}

TEST_P(EngineLoop, ten_thousand_requests_wait_and_those_beyond_are_told_when_to_come_back) {
  Faults faults;
  faults.hang = true;
  SimOptions sim = options();
  sim.max_num_queued_seqs = 10'000;
  sim.faults = &faults;
  Running running(sim);
  int accepted = 0;
  try {
    for (; accepted < 11'000; ++accepted) running.engine.submit(make_request(str(accepted), make_prompt(3), 1));
  } catch (const Overloaded& error) {
    EXPECT_GE(error.retry_after, 1);
  }
  EXPECT_GE(accepted, 10'000);
  EXPECT_LE(accepted, 10'000 + 2 * sim.max_num_seqs) << "those that run do not wait";
  for (int i = 0; i < 1000; ++i) {
    EXPECT_THROW(running.engine.submit(make_request("late", make_prompt(3), 1)), Overloaded);
  }
  faults.hang = false;
  running.drain(accepted);
  EXPECT_EQ(running.engine.stats().num_finished_length, accepted);
  EXPECT_EQ(running.engine.stats().num_waiting, 0);
}

TEST_P(EngineLoop, abort_ends_a_request_with_one_output_per_choice) {
  Faults faults;
  faults.slow = true;
  SimOptions sim = options();
  sim.faults = &faults;
  Running running(sim);
  Request request = make_request("a", make_prompt(4), 190, 1.0);
  request.params.n = 3;
  running.engine.submit(request);
  running.engine.abort("a");
  running.engine.abort("a");
  running.engine.abort("unknown");
  running.drain(3);
  for (int32_t choice = 0; choice < 3; ++choice) EXPECT_EQ((running.transcripts[{"a", choice}].finish), FinishReason::abort);
  EXPECT_TRUE(running.engine.wait(20).empty());
  EXPECT_EQ(running.engine.stats().num_free_blocks, running.engine.stats().num_kv_blocks);
}

TEST_P(EngineLoop, wait_returns_after_its_timeout_and_an_idle_engine_uses_no_cpu) {
  Running running(options());
  const auto begin = Clock::now();
  const double cpu_begin = cpu_seconds();
  EXPECT_TRUE(running.engine.wait(200).empty());
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(190));
  EXPECT_LT(cpu_seconds() - cpu_begin, 0.1);
}

TEST_P(EngineLoop, a_failing_step_tells_every_waiter_and_marks_the_engine_failed) {
  Faults faults;
  faults.throw_at_forward = 3;
  SimOptions sim = options();
  sim.max_num_seqs = 2;
  sim.faults = &faults;
  Running running(sim);
  for (int i = 0; i < 5; ++i) {
    try {
      running.engine.submit(make_request(str(i), make_prompt(4), 50));
    } catch (const DeviceError&) {
      continue;  // it may have failed already
    }
    running.transcripts[{str(i), 0}];
  }
  running.drain(static_cast<int>(running.transcripts.size()));
  for (const auto& [id, transcript] : running.transcripts) {
    EXPECT_EQ(transcript.finish, FinishReason::error);
    EXPECT_EQ(transcript.error, "simulated device failure");
  }
  EXPECT_FALSE(running.engine.healthy());
  EXPECT_EQ(running.engine.failure(), "simulated device failure");
  EXPECT_THROW(running.engine.submit(make_request("late", make_prompt(4), 5)), DeviceError);
  running.engine.abort("0");
  running.engine.stop();
}

TEST_P(EngineLoop, stop_aborts_what_is_live_and_refuses_more) {
  Faults faults;
  faults.slow = true;
  SimOptions sim = options();
  sim.max_num_seqs = 2;
  sim.faults = &faults;
  Running running(sim);
  EXPECT_TRUE(running.engine.healthy());
  for (int i = 0; i < 5; ++i) running.engine.submit(make_request(str(i), make_prompt(4), 150));
  running.engine.stop();
  running.engine.stop();
  running.drain(5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ((running.transcripts[{str(i), 0}].finish), FinishReason::abort);
  EXPECT_FALSE(running.engine.healthy());
  EXPECT_EQ(running.engine.failure(), "");
  EXPECT_THROW(running.engine.submit(make_request("late", make_prompt(4), 5)), DeviceError);
}

TEST_P(EngineLoop, stop_wakes_a_waiting_consumer) {
  Running running(options());
  const auto begin = Clock::now();
  std::thread consumer([&] { running.engine.wait(20000); });
  running.engine.stop();
  consumer.join();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
}

TEST_P(EngineLoop, one_request_with_unusable_logits_ends_alone) {
  Faults faults;
  faults.nan_after = 9;
  SimOptions sim = options();
  sim.faults = &faults;
  Running running(sim);
  running.engine.submit(make_request("bad", {1, 2, 9}, 5));
  Request good = make_request("good", {1, 2, 8}, 5);
  good.params.logit_bias = {{9, -100}};
  running.engine.submit(good);
  running.drain(2);
  EXPECT_EQ((running.transcripts[{"bad", 0}].finish), FinishReason::error);
  EXPECT_EQ((running.transcripts[{"good", 0}].finish), FinishReason::length);
  EXPECT_TRUE(running.engine.healthy());
  EXPECT_EQ(running.engine.stats().num_numerics_errors, 1);
}

TEST_P(EngineLoop, a_hanging_step_is_seen_as_a_stall_and_an_idle_engine_is_not) {
  const auto wait_for = [](const auto& condition) {
    const auto deadline = Clock::now() + std::chrono::seconds(10);
    while (!condition() && Clock::now() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
  };
  Faults faults;
  faults.hang = true;
  SimOptions sim = options();
  sim.faults = &faults;
  Running running(sim);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(running.engine.stalled_seconds(), 0);
  running.engine.submit(make_request("a", make_prompt(5), 3));
  EXPECT_LT(running.engine.stalled_seconds(), 0.02) << "the time of sleeping does not count";
  EXPECT_TRUE(wait_for([&] { return running.engine.stalled_seconds() > 0.05; }));
  EXPECT_TRUE(running.engine.healthy());
  faults.hang = false;
  running.drain(1);
  EXPECT_TRUE(wait_for([&] { return running.engine.stalled_seconds() == 0; }));
}

TEST_P(EngineLoop, keeps_timelines_and_steps) {
  Running running(options());
  running.engine.submit(make_request("a-0", make_prompt(70), 4));
  running.engine.submit(make_request("b-0", make_prompt(3), 4));
  running.drain(2);
  const std::vector<Timeline> timelines = running.engine.timelines("a-");
  ASSERT_EQ(timelines.size(), 1u);
  EXPECT_EQ(timelines[0].events.front().kind, TraceKind::queued);
  EXPECT_EQ(timelines[0].events.back().kind, TraceKind::finished);
  EXPECT_EQ(running.engine.timelines("").size(), 2u);
  int64_t num_tokens = 0;
  for (const StepTrace& step : running.engine.steps()) {
    EXPECT_LE(step.begin, step.end);
    num_tokens += step.num_tokens;
  }
  EXPECT_GE(num_tokens, 70 + 3 + 2 * 3);
  EXPECT_EQ(std::ssize(running.engine.steps()), running.engine.stats().num_steps);
}

TEST_P(EngineLoop, an_abort_can_say_that_a_stop_string_was_found) {
  Faults faults;
  faults.slow = true;
  SimOptions sim = options();
  sim.faults = &faults;
  Running running(sim);
  running.engine.submit(make_request("a", make_prompt(5), 190));
  running.engine.abort("a", 0, FinishReason::stop);
  running.drain(1);
  EXPECT_EQ((running.transcripts[{"a", 0}].finish), FinishReason::stop);
  EXPECT_EQ(running.engine.stats().num_finished_stop, 1);
  EXPECT_EQ(running.engine.stats().num_finished_abort, 0);
}

TEST_P(EngineLoop, the_age_of_the_queue_grows_while_nothing_moves) {
  Faults faults;
  SimOptions sim = options();
  sim.faults = &faults;
  sim.max_num_seqs = 1;
  faults.slow = true;
  Running running(sim);
  running.engine.submit(make_request("a", make_prompt(5), 190));
  running.engine.submit(make_request("b", make_prompt(5), 5));
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  while (running.engine.stats().num_waiting == 0 && Clock::now() < deadline) std::this_thread::yield();
  const double age = running.engine.stats().queue_age_seconds;
  EXPECT_GT(age, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(running.engine.stats().queue_age_seconds, age + 0.01);
  running.drain(2);
  EXPECT_EQ(running.engine.stats().queue_age_seconds, 0);
}

TEST_P(EngineLoop, survives_random_submits_and_aborts_from_several_threads) {
  SimOptions sim = options();
  sim.num_blocks = 30;
  sim.max_num_batched_tokens = 16;
  Running running(sim);
  std::atomic<int> num_submitted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) {
        const std::string id = str(t, "-", i);
        running.engine.submit(make_request(id, make_prompt(1 + (i * 7) % 40, static_cast<uint64_t>(i % 3)), 1 + (i * 11) % 60));
        ++num_submitted;
        if (i % 3 == t) running.engine.abort(id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  running.drain(num_submitted);
  EXPECT_EQ(running.engine.stats().num_free_blocks, 30);
  EXPECT_TRUE(running.engine.wait(10).empty());
}

TEST_P(EngineLoop, preemptions_are_told_and_swapped_sequences_go_on) {
  SimOptions sim = options();
  sim.num_blocks = 9;
  sim.prefix_cache = false;
  sim.rules.preemption = PreemptionMode::swap;
  sim.num_swap_blocks = 10;
  Running running(sim);
  // The first of a pair may be done before the second one comes; then another pair tries.
  std::vector<PreemptionNotice> notices;
  for (int pair = 0; notices.empty() && pair < 1000; ++pair) {
    for (const char* name : {"a", "b"}) {
      running.engine.submit(make_request(str(name, pair), make_prompt(12, name[0] == 'a' ? 1 : 2), 16));
    }
    running.drain(2);
    for (const char* name : {"a", "b"}) {
      const Request request = make_request(name, make_prompt(12, name[0] == 'a' ? 1 : 2), 16);
      EXPECT_EQ((running.transcripts[{str(name, pair), 0}].tokens), alone(request, sim).at(0).tokens);
    }
    notices = running.engine.take_preemptions();
  }
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_TRUE(notices[0].swapped);
  EXPECT_EQ(notices[0].request_id[0], 'b');
  EXPECT_TRUE(running.engine.take_preemptions().empty());
}

TEST_P(EngineLoop, an_abort_of_an_empty_id_is_an_abort) {
  Running running(options());
  running.engine.submit(make_request("first", make_prompt(18, 1), 2));
  running.drain(1);
  FinishReason finish = FinishReason::length;
  for (int i = 0; finish == FinishReason::length && i < 1000; ++i) {  // it may be done before the abort comes
    running.transcripts.erase({"", 0});
    running.engine.submit(make_request("", make_prompt(3, 2), 190));
    running.engine.abort("");
    running.drain(1);
    finish = running.transcripts[{"", 0}].finish;
  }
  EXPECT_EQ(finish, FinishReason::abort);
  running.engine.submit(make_request("second", make_prompt(18, 1), 2));
  running.drain(1);
  EXPECT_EQ(running.engine.stats().prefix_cache_hits, 16);
}

TEST_P(EngineLoop, a_reset_prefix_cache_finds_nothing) {
  Running running(options());
  const auto cached = [&](const std::string& id) {
    running.engine.submit(make_request(id, make_prompt(18, 1), 2));
    running.drain(1);
    return running.engine.stats().prefix_cache_hits;
  };
  EXPECT_EQ(cached("a"), 0);
  EXPECT_EQ(cached("b"), 16);
  running.engine.reset_prefix_cache();
  EXPECT_EQ(cached("c"), 16);
  EXPECT_EQ(cached("d"), 32);
}

}  // namespace
}  // namespace pagoda::sim

// Timelines and latency histograms, on a clock that the test turns.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "engine/trace_log.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

using std::chrono::seconds;

TimePoint clock_now;
TimePoint test_now() { return clock_now; }

/// A trace with a clock that starts at second 1000.
struct Traced {
  Traced() {
    clock_now = TimePoint{} + seconds(1000);
    trace.start_recording();
  }

  Sequence sequence(uint64_t id, const std::string& name, int64_t num_prompt) {
    Request request = make_request(name, make_prompt(num_prompt), 8);
    Sequence seq;
    seq.id = id;
    seq.num_prompt = num_prompt;
    seq.tokens = request.prompt;
    seq.request = std::make_shared<const Request>(std::move(request));
    return seq;
  }
  void wait(int64_t count) { clock_now += seconds(count); }
  void token(Sequence& seq) {
    seq.tokens.push_back(1);
    trace.token(seq);
  }

  Stats stats;
  Trace trace{stats, test_now};
};

template <class H>
int64_t count_of(const H& histogram) {
  return std::accumulate(histogram.counts.begin(), histogram.counts.end(), int64_t{0});
}

std::vector<std::string> kinds_of(const Timeline& timeline) {
  std::vector<std::string> kinds;
  for (const TraceEvent& event : timeline.events) kinds.push_back(trace_kind_name(event.kind));
  return kinds;
}

TEST(Histogram, counts_a_value_in_the_first_bucket_whose_bound_is_not_below_it) {
  static constexpr std::array kBounds = {1.0, 2.0, 5.0};
  Histogram<kBounds> histogram;
  for (const double value : {0.0, 1.0, 1.5, 2.0, 5.0, 5.1, 1e9}) histogram.observe(value);
  EXPECT_EQ(histogram.counts, (std::array<int64_t, 4>{2, 2, 1, 2}));
  EXPECT_DOUBLE_EQ(histogram.sum, 0.0 + 1.0 + 1.5 + 2.0 + 5.0 + 5.1 + 1e9);
}

TEST(Histogram, has_ascending_bounds_everywhere) {
  for_each_field<Stats>([](const auto& row) {
    using Value = std::decay_t<decltype(Stats{}.*row.member)>;
    EXPECT_EQ(is_histogram<Value>, row.kind == StatKind::histogram) << row.name;
    if constexpr (is_histogram<Value>) {
      EXPECT_TRUE(std::ranges::is_sorted(Value::kBounds, std::less_equal<>{})) << row.name;
      EXPECT_GT(Value::kBounds.front(), 0) << row.name;
    }
  });
}

TEST(Trace, measures_each_stretch_of_a_sequences_life) {
  Traced traced;
  Sequence seq = traced.sequence(0, "a", 5);
  traced.trace.queued(seq);
  traced.wait(2);
  traced.trace.admitted(seq);
  seq.state = SequenceState::running;
  traced.wait(3);
  traced.token(seq);
  traced.wait(7);
  traced.token(seq);
  traced.wait(11);
  traced.token(seq);
  traced.wait(13);
  traced.trace.finished(seq);
  EXPECT_DOUBLE_EQ(traced.stats.queue_time.sum, 2);
  EXPECT_DOUBLE_EQ(traced.stats.prefill_time.sum, 3);
  EXPECT_DOUBLE_EQ(traced.stats.time_to_first_token.sum, 5);
  EXPECT_DOUBLE_EQ(traced.stats.inter_token_latency.sum, 18);
  EXPECT_EQ(count_of(traced.stats.inter_token_latency), 2);
  EXPECT_DOUBLE_EQ(traced.stats.decode_time.sum, 18);
  EXPECT_DOUBLE_EQ(traced.stats.time_per_output_token.sum, 9);
  EXPECT_DOUBLE_EQ(traced.stats.inference_time.sum, 21);
  EXPECT_DOUBLE_EQ(traced.stats.e2e_latency.sum, 36);
  EXPECT_DOUBLE_EQ(traced.stats.prompt_length.sum, 5);
  EXPECT_DOUBLE_EQ(traced.stats.output_length.sum, 3);
  EXPECT_DOUBLE_EQ(traced.stats.longest_output.sum, 3);
  EXPECT_DOUBLE_EQ(traced.stats.max_tokens.sum, 8);
}

TEST(Trace, counts_the_longest_choice_of_a_request_once_all_have_finished) {
  Traced traced;
  Sequence first = traced.sequence(0, "a", 5);
  Request several = *first.request;
  several.params.n = 2;
  first.request = std::make_shared<const Request>(several);
  Sequence second = first;
  second.choice = 1;
  for (int i = 0; i < 3; ++i) traced.token(first);
  traced.token(second);
  traced.trace.finished(first);
  EXPECT_EQ(count_of(traced.stats.longest_output), 0);
  traced.trace.finished(second);
  EXPECT_EQ(count_of(traced.stats.longest_output), 1);
  EXPECT_DOUBLE_EQ(traced.stats.longest_output.sum, 3);
  EXPECT_DOUBLE_EQ(traced.stats.output_length.sum, 4);
}

TEST(TraceLog, keeps_the_latest_sequences_and_forgets_the_events_of_older_ones) {
  Traced traced;
  TraceLog log(2);
  std::vector<Sequence> seqs;
  for (uint64_t i = 0; i < 3; ++i) {
    seqs.push_back(traced.sequence(i, str("r-", i), 4));
    traced.trace.queued(seqs.back());
  }
  for (Sequence& seq : seqs) traced.trace.finished(seq);
  log.take(traced.trace);
  EXPECT_TRUE(traced.trace.entries().empty());
  const std::vector<Timeline> kept = log.timelines("r-");
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept[0].request_id, "r-1");
  EXPECT_EQ(kept[1].request_id, "r-2");
  for (const Timeline& timeline : kept) EXPECT_EQ(kinds_of(timeline), (std::vector<std::string>{"queued", "finished"}));
  EXPECT_EQ(log.timelines("r-2").size(), 1u);
  EXPECT_TRUE(log.timelines("x").empty());
}

TEST(TraceLog, bounds_the_events_of_a_sequence_and_still_has_its_end) {
  Traced traced;
  TraceLog log(4);
  Sequence seq = traced.sequence(0, "a", 1000);
  traced.trace.queued(seq);
  for (int64_t i = 0; i < 300; ++i) traced.trace.planned({&seq, 2 * i, 2 * i + 2});
  traced.trace.finished(seq);
  log.take(traced.trace);
  const Timeline timeline = log.timelines("a").at(0);
  EXPECT_EQ(timeline.events.size(), Timeline::kMaxEvents);
  EXPECT_EQ(timeline.events.back().kind, TraceKind::finished);
  EXPECT_EQ(timeline.num_dropped, 302 - static_cast<int64_t>(Timeline::kMaxEvents));
}

TEST(TraceLog, keeps_the_latest_steps_in_order) {
  Traced traced;
  TraceLog log(0);
  StepPlan plan;
  for (size_t i = 0; i < TraceLog::kMaxSteps + 5; ++i) {
    plan.num_tokens = static_cast<int64_t>(i);
    traced.trace.step(clock_now, plan);
    traced.wait(1);
    if (i % 1000 == 0) log.take(traced.trace);
  }
  log.take(traced.trace);
  const std::vector<StepTrace> steps = log.steps();
  ASSERT_EQ(steps.size(), TraceLog::kMaxSteps);
  EXPECT_EQ(steps.front().num_tokens, 5);
  EXPECT_EQ(steps.back().num_tokens, static_cast<int64_t>(TraceLog::kMaxSteps) + 4);
  EXPECT_TRUE(std::ranges::is_sorted(steps, {}, &StepTrace::begin));
}

/// Preemption, chunks and the cache in the real scheduler.
TEST(Trace, tells_the_life_of_every_sequence_in_order) {
  SimOptions options;
  options.num_blocks = 10;
  options.max_num_batched_tokens = 8;
  SimEngine engine(options);
  engine.scheduler().trace().start_recording();
  engine.add(make_request("a", make_prompt(17, 1), 16));
  engine.add(make_request("b", make_prompt(9, 2), 16));
  engine.run();
  TraceLog log(8);
  log.take(engine.scheduler().trace());
  const Timeline a = log.timelines("a").at(0);
  EXPECT_EQ(kinds_of(a),
            (std::vector<std::string>{"queued", "admitted", "chunk", "chunk", "chunk", "first_token", "finished"}));
  EXPECT_EQ(a.events[4].begin, 16);
  EXPECT_EQ(a.events[4].end, 17);
  EXPECT_EQ(a.events.back().end, 16);
  EXPECT_EQ(a.events.back().finish, FinishReason::length);
  const std::vector<std::string> b = kinds_of(log.timelines("b").at(0));
  const auto preempted = std::ranges::find(b, "preempted");
  ASSERT_NE(preempted, b.end());
  EXPECT_NE(std::find(preempted, b.end(), "resumed"), b.end());
  EXPECT_TRUE(std::ranges::is_sorted(a.events, {}, &TraceEvent::time));
  const Stats stats = engine.stats();
  EXPECT_EQ(count_of(stats.time_to_first_token), 2);
  EXPECT_EQ(count_of(stats.inter_token_latency), 30);
  EXPECT_EQ(count_of(stats.e2e_latency), 2);
  EXPECT_EQ(count_of(stats.queue_time), 2);
}

TEST(Trace, tells_of_swaps) {
  SimOptions options;
  options.num_blocks = 10;
  options.num_swap_blocks = 10;
  options.rules.preemption = PreemptionMode::swap;
  SimEngine engine(options);
  engine.scheduler().trace().start_recording();
  engine.add(make_request("a", make_prompt(17, 1), 16));
  engine.add(make_request("b", make_prompt(9, 2), 16));
  engine.run();
  ASSERT_EQ(engine.stats().num_preemptions_swap, 1);
  TraceLog log(8);
  log.take(engine.scheduler().trace());
  const Timeline b = log.timelines("b").at(0);
  EXPECT_EQ(kinds_of(b), (std::vector<std::string>{"queued", "admitted", "chunk", "first_token", "preempted", "swapped_out",
                                                   "swapped_in", "resumed", "finished"}));
  EXPECT_EQ(b.events[5].end, engine.stats().num_swapped_out_blocks);
  EXPECT_EQ(b.events[6].end, engine.stats().num_swapped_in_blocks);
}

}  // namespace
}  // namespace pagoda::sim

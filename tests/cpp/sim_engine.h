// The real scheduler and runner over the simulated model, stepped by hand, with every invariant checked after every step.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/runner.h"
#include "engine/scheduler.h"
#include "sim_model.h"

namespace pagoda::sim {

struct SimOptions {
  int64_t num_blocks = 64;
  int64_t block_size = 4;
  int64_t max_num_seqs = 16;
  int64_t max_num_batched_tokens = 64;
  int64_t max_model_len = 200;
  int64_t max_num_queued_seqs = 1000;
  int64_t vocab_size = 40;
  bool prefix_cache = true;
  SchedulingRules rules = {};
  std::vector<int32_t> eos_tokens = {};
  BlockPoolHooks hooks = {};
  Faults* faults = nullptr;
  AddSampleRow add_row = add_sample_row;
  bool pads_decode_steps = false;
  size_t steps_in_flight = 1;
  int64_t num_swap_blocks = 0;
  int64_t watermark_blocks = 0;
  int64_t max_num_queued_tokens = 0;
  int64_t max_prefill_chunk = 0;
  std::chrono::milliseconds mask_timeout{2000};
  bool repeats = false;  // see SimModel

  Limits limits() const {
    return {vocab_size, max_model_len,   max_num_seqs,     max_num_batched_tokens, max_num_queued_seqs, num_blocks,
            block_size, num_swap_blocks, watermark_blocks, max_num_queued_tokens,  max_prefill_chunk,   rules.draft.max_tokens};
  }
};

/// All that one choice of a request was told.
struct Transcript {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::none;
  int32_t stop_token = -1;
  int32_t num_cached_tokens = 0;
  std::string error;
  std::vector<int64_t> progress;  // of the prompt
  std::vector<float> embedding;
};

inline bool same(const TokenLogprobs& a, const TokenLogprobs& b) {
  return a.logprob == b.logprob && a.rank == b.rank && a.top_tokens == b.top_tokens && a.top_logprobs == b.top_logprobs;
}

/// Equal in everything that must not depend on batch mates, chunks, cache or preemption.
inline void expect_same(const Transcript& a, const Transcript& b, const std::string& name) {
  EXPECT_EQ(a.tokens, b.tokens) << name;
  EXPECT_TRUE(std::ranges::equal(a.logprobs, b.logprobs, same)) << name;
  EXPECT_TRUE(std::ranges::equal(a.prompt_logprobs, b.prompt_logprobs, same)) << name;
  EXPECT_EQ(a.finish, b.finish) << name;
  EXPECT_EQ(a.stop_token, b.stop_token) << name;
  EXPECT_EQ(a.error, b.error) << name;
  EXPECT_EQ(a.embedding, b.embedding) << name;
}

inline Request make_request(std::string id, std::vector<int32_t> prompt, int64_t max_tokens, double temperature = 0) {
  Request request;
  request.id = std::move(id);
  request.prompt = std::move(prompt);
  request.params.max_tokens = max_tokens;
  request.params.temperature = temperature;
  request.params.seed = 7;
  return request;
}

/// `count` tokens that look random and depend on `seed`.
inline std::vector<int32_t> make_prompt(int64_t count, uint64_t seed = 0, int64_t vocab_size = 40) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(philox(seed, static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocab_size)));
  }
  return tokens;
}

class SimEngine {
 public:
  explicit SimEngine(const SimOptions& options)
      : options_(options),
        limits_(options.limits()),
        model_(options.vocab_size, options.faults, options.repeats),
        kv_(options.num_blocks, static_cast<int>(options.block_size), options.prefix_cache, options.hooks),
        cache_(&backend_, model_.kv_shape(), DType::f32, static_cast<int>(options.block_size), options.num_blocks,
               options.num_swap_blocks),
        arena_(backend_,
               static_cast<size_t>(limits_.max_logit_rows() * options.vocab_size + 2 * limits_.max_num_batched_tokens) *
                       sizeof(float) +
                   2 * Arena::kAlignment),
        scheduler_(limits_, options.rules, options.eos_tokens, kv_),
        runner_(model_, backend_, cache_, arena_, limits_, options.eos_tokens, options.add_row) {
    runner_.set_mask_timeout(options.mask_timeout);
  }

  void add(const Request& request) {
    scheduler_.add(std::make_shared<const Request>(request));
    for (int32_t choice = 0; choice < request.params.n; ++choice) transcripts_[{request.id, choice}];
  }

  void abort(const std::string& id) {
    std::vector<Output> outputs;
    scheduler_.abort(id, kAllChoices, outputs);
    receive(outputs);
    scheduler_.check_integrity();
  }

  /// One step with all checks: plans and launches one, and commits one when enough are in flight or none could be planned.
  /// Returns the number of tokens computed, or, when nothing was planned, of the step that was committed.
  int64_t step() {
    const StepPlan& plan = scheduler_.schedule();
    scheduler_.check_integrity();
    check_plan(plan);
    std::vector<Output> outputs;
    int64_t num_tokens = plan.num_tokens;
    if (!plan.seqs.empty()) {
      runner_.launch(plan);
      in_flight_.push_back(&plan);
    }
    if (!in_flight_.empty() && (plan.seqs.empty() || in_flight_.size() == options_.steps_in_flight)) {
      const StepPlan& oldest = *in_flight_.front();
      if (plan.seqs.empty()) num_tokens = oldest.num_tokens;
      runner_.collect(oldest, result_);
      scheduler_.commit(oldest, result_, outputs);
      in_flight_.pop_front();
    }
    receive(outputs);
    scheduler_.check_integrity();
    EXPECT_EQ(model_.num_bad_reads(), 0) << "a slot did not hold what its sequence had stored there";
    EXPECT_TRUE(scheduler_.has_work() || kv_.num_free() == kv_.num_blocks()) << "I9";
    EXPECT_TRUE(scheduler_.has_work() || stats().num_free_swap_blocks == options_.num_swap_blocks) << "I9";
    return num_tokens;
  }

  /// Steps until all work is done; fails if that takes more than `max_steps`.
  void run(int max_steps = 5000) {
    for (int steps = 0; has_work(); ++steps) {
      ASSERT_LT(steps, max_steps) << "no end in sight";
      step();
      ASSERT_FALSE(::testing::Test::HasFailure());
    }
  }

  const Transcript& of(const std::string& id, int32_t choice = 0) const { return transcripts_.at({id, choice}); }
  bool finished(const std::string& id, int32_t choice = 0) const { return of(id, choice).finish != FinishReason::none; }
  bool has_work() const { return scheduler_.has_work() || !in_flight_.empty(); }
  const SimBackend& backend() const { return backend_; }
  Stats stats() const { return scheduler_.stats(); }
  const SimModel& model() const { return model_; }
  const StepPlan& last_plan() const { return last_plan_; }
  Scheduler& scheduler() { return scheduler_; }
  const KvManager& kv() const { return kv_; }
  const Limits& limits() const { return limits_; }
  const std::map<std::pair<std::string, int32_t>, Transcript>& transcripts() const { return transcripts_; }

 private:
  /// I4, and that each planned range is a run of known tokens that continues what is computed.
  void check_plan(const StepPlan& plan) {
    last_plan_ = plan;
    int64_t num_tokens = 0, num_rows = 0;
    for (const PlannedSeq& planned : plan.seqs) {
      EXPECT_LT(planned.begin, planned.end);
      const int64_t num_expected = planned.seq->num_expected() - planned.wants_token;  // before this step
      EXPECT_LE(planned.end, num_expected);
      EXPECT_EQ(planned.wants_token, planned.end == num_expected && !planned.seq->pools());
      EXPECT_EQ(planned.token_source >= 0, planned.end > planned.seq->num_tokens());
      EXPECT_TRUE(planned.draft.empty() || (planned.wants_token && planned.end == planned.seq->num_tokens()));
      const int64_t num_draft = std::ssize(planned.draft);
      EXPECT_EQ(std::ssize(planned.seq->table.blocks), kv_.blocks_for(num_expected + num_draft)) << "I5";
      num_tokens += planned.draft_end() - planned.begin;
      num_rows += planned.rows_end - planned.rows_begin + planned.num_draws();
    }
    for (const BlockCopy& copy : plan.copies) {
      EXPECT_EQ(std::ranges::count(plan.copies, copy.from, &BlockCopy::to), 0) << "a copy of what the same step copies";
    }
    EXPECT_EQ(num_tokens, plan.num_tokens);
    EXPECT_LE(num_tokens, limits_.max_num_batched_tokens) << "I4";
    EXPECT_LE(std::ssize(plan.seqs), limits_.max_num_seqs) << "I4";
    EXPECT_LE(num_rows, limits_.max_logit_rows());
  }

  /// I7, I8, I11.
  void receive(std::vector<Output>& outputs) {
    for (Output& output : outputs) {
      Transcript& transcript = transcripts_.at({output.request_id, output.choice});
      EXPECT_EQ(transcript.finish, FinishReason::none) << "output after the last one of " << output.request_id;
      transcript.tokens.insert(transcript.tokens.end(), output.tokens.begin(), output.tokens.end());
      std::ranges::move(output.logprobs, std::back_inserter(transcript.logprobs));
      std::ranges::move(output.prompt_logprobs, std::back_inserter(transcript.prompt_logprobs));
      transcript.finish = output.finish;
      transcript.stop_token = output.stop_token;
      transcript.num_cached_tokens = output.num_cached_tokens;
      transcript.error = output.error;
      transcript.embedding = output.embedding;
      if (output.num_prompt_computed) transcript.progress.push_back(output.num_prompt_computed);
      EXPECT_TRUE(output.num_prompt_computed == 0 || (output.tokens.empty() && output.finish == FinishReason::none));
    }
  }

  SimOptions options_;
  Limits limits_;
  SimModel model_;
  SimBackend backend_{options_.pads_decode_steps};
  KvManager kv_;
  KvCache cache_;
  Arena arena_;
  Scheduler scheduler_;
  Runner runner_;
  StepResult result_;
  StepPlan last_plan_;
  std::deque<const StepPlan*> in_flight_;  // oldest first
  std::map<std::pair<std::string, int32_t>, Transcript> transcripts_;
};

/// The transcripts of a request that runs alone, in one chunk, without drafts and the prefix cache, in a cache with room for
/// all.
inline std::vector<Transcript> alone(const Request& request, const SimOptions& options) {
  SimOptions roomy = options;
  roomy.num_blocks = request.params.n * (options.max_model_len / options.block_size + 1);
  roomy.max_num_batched_tokens = 4096;
  roomy.prefix_cache = false;
  roomy.num_swap_blocks = roomy.watermark_blocks = roomy.max_prefill_chunk = 0;
  roomy.hooks = {};
  roomy.steps_in_flight = 1;
  roomy.rules.draft = {};
  Request bounded = request;
  if (request.pooling == Pooling::none)
    bounded.params.max_tokens = options.limits().max_output(request);  // not more in more room
  SimEngine engine(roomy);
  engine.add(bounded);
  engine.run();
  std::vector<Transcript> transcripts;
  for (int32_t choice = 0; choice < request.params.n; ++choice) transcripts.push_back(engine.of(request.id, choice));
  return transcripts;
}

/// Runs all requests together and compares each with itself alone. Returns the counters.
inline Stats expect_each_as_alone(const std::vector<Request>& requests, const SimOptions& options) {
  SimEngine engine(options);
  for (const Request& request : requests) engine.add(request);
  engine.run();
  for (const Request& request : requests) {
    const auto reference = alone(request, options);
    for (int32_t choice = 0; choice < request.params.n; ++choice) {
      expect_same(engine.of(request.id, choice), reference.at(static_cast<size_t>(choice)), request.id);
    }
  }
  return engine.stats();
}

}  // namespace pagoda::sim

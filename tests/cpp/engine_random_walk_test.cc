// A long random walk over the real scheduler: add, step, abort in every state, finish, preempt, evict, fail. SimEngine checks
// the invariants after every step; at the end every request must have got the tokens it gets alone. A failing seed replays.
#include <gtest/gtest.h>

#include <random>

#include "core/check.h"
#include "sim_engine.h"

namespace pagoda::sim {
namespace {

class Walk {
 public:
  explicit Walk(uint32_t seed) : random_(seed), options_(random_options()), engine_(options_) {}

  void run(int num_actions) {
    for (int i = 0; i < num_actions && !::testing::Test::HasFailure(); ++i) {
      const size_t action = pick(10);
      if (action < 3 && num_live() < 16)
        add();
      else if (action == 3)
        abort();
      else
        step();
    }
    while (engine_.has_work() && !::testing::Test::HasFailure()) step();
    if (!::testing::Test::HasFailure()) compare();
  }

  Stats stats() const { return engine_.stats(); }
  int num_refused() const { return num_refused_; }

 private:
  size_t pick(size_t n) { return static_cast<size_t>(random_() % n); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return *(values.begin() + pick(values.size()));
  }

  SimOptions random_options() {
    SimOptions options;
    options.num_blocks = 1 + static_cast<int64_t>(pick(64));
    options.block_size = one_of<int64_t>({1, 2, 4, 16});
    options.max_num_seqs = one_of<int64_t>({1, 2, 5, 16});
    options.max_num_batched_tokens = one_of<int64_t>({1, 2, 3, 7, 17, 64, 300});
    options.max_model_len = one_of<int64_t>({10, 45, 120});
    options.max_num_queued_seqs = one_of<int64_t>({4, 100});
    options.prefix_cache = pick(4) != 0;
    options.rules.policy = one_of({SchedulingPolicy::fcfs, SchedulingPolicy::priority, SchedulingPolicy::fair});
    options.rules.preemption = one_of({PreemptionMode::automatic, PreemptionMode::swap, PreemptionMode::recompute});
    options.num_swap_blocks = one_of<int64_t>({0, 3, 20, 100});
    options.watermark_blocks = one_of<int64_t>({0, 0, 2});
    options.max_prefill_chunk = one_of<int64_t>({0, 0, 1, 5});
    options.max_num_queued_tokens = one_of<int64_t>({0, 0, 300});
    options.eos_tokens = {39};
    if (pick(4) == 0) options.hooks.hash = [](Hash128, std::span<const int32_t>) { return Hash128{5, 5}; };
    if (pick(4) == 0) options.hooks.fail_allocation = [this] { return pick(20) == 0; };
    if (pick(3) == 0) faults_.nan_after = 23;
    options.faults = &faults_;
    options.steps_in_flight = 1 + pick(2);
    options.pads_decode_steps = pick(2) != 0;
    options.repeats = pick(3) != 0;
    if (pick(2)) options.rules.draft = {1 + static_cast<int64_t>(pick(7)), 2 + static_cast<int64_t>(pick(3)), 1};
    allocations_fail_ = static_cast<bool>(options.hooks.fail_allocation);
    return options;
  }

  Request random_request() {
    const auto limit = static_cast<size_t>(engine_.limits().max_context());
    std::vector<int32_t> prompt = make_prompt(1 + static_cast<int64_t>(pick(limit)), pick(3));  // three families of beginnings
    if (pick(2)) prompt.back() = static_cast<int32_t>(pick(39));
    Request request =
        make_request(str("r", num_requests_++), prompt, 1 + static_cast<int64_t>(pick(limit)), pick(2) ? 1.0 : 0.0);
    SamplingParams& params = request.params;
    params.seed = static_cast<int64_t>(pick(5));
    if (pick(5) == 0) params.max_tokens.reset();
    if (pick(4) == 0) params.n = 1 + static_cast<int64_t>(pick(3));
    if (pick(3) == 0) params.logprobs = static_cast<int64_t>(pick(3));
    if (pick(5) == 0) params.prompt_logprobs = static_cast<int64_t>(pick(3));
    if (pick(3) == 0) params.frequency_penalty = 1;
    if (pick(3) == 0) params.stop_token_ids = {3, 12, 31};
    if (pick(4) == 0) params.ignore_eos = true;
    if (pick(4) == 0) params.cache_salt = "salt";
    if (pick(6) == 0) params.allowed_token_ids = {2, 23, 30};
    params.priority = static_cast<int64_t>(pick(3));
    if (pick(5) == 0 && params.n == 1 && !params.prompt_logprobs) request.pooling = one_of({Pooling::mean, Pooling::last});
    request.tenant = one_of({"ann", "bob", "eve"});
    return request;
  }

  void add() {
    const Request request = random_request();
    try {
      engine_.add(request);
      requests_.push_back(request);
      num_idle_steps_ = 0;
    } catch (const InvalidArgument&) {
      ++num_refused_;
    } catch (const Overloaded&) {
      ++num_refused_;
    }
  }

  void abort() {
    if (requests_.empty()) return engine_.abort("unknown");
    const std::string& id = requests_[pick(requests_.size())].id;  // live, finished or aborted already
    engine_.abort(id);
    num_idle_steps_ = 0;
  }

  /// One step, and I12: within as many steps as the longest context has chunks, a token is made or a sequence ends.
  void step() {
    const auto progress = [&] {
      const Stats stats = engine_.stats();
      return stats.num_generation_tokens + stats.num_finished_error + stats.num_finished_stop;  // or is embedded
    };
    const int64_t before = progress();
    const bool had_work = engine_.has_work();
    const int64_t num_tokens = engine_.step();
    if (allocations_fail_) return;
    EXPECT_TRUE(num_tokens > 0 || !had_work) << "work, but nothing ran";
    num_idle_steps_ = progress() > before || !had_work ? 0 : num_idle_steps_ + 1;
    int64_t chunk = std::min(engine_.limits().max_num_batched_tokens, engine_.limits().max_prompt_rows());
    if (options_.max_prefill_chunk) chunk = std::min(chunk, options_.max_prefill_chunk);
    // With two steps in flight every other one may only launch.
    const auto per_step = static_cast<int64_t>(options_.steps_in_flight);
    EXPECT_LE(num_idle_steps_, per_step * (engine_.limits().max_context() / chunk + 1)) << "I12";
  }

  int64_t num_live() const { return engine_.stats().num_running + engine_.stats().num_waiting; }

  void compare() {
    for (const Request& request : requests_) {
      const auto reference = alone(request, options_);
      for (int32_t choice = 0; choice < request.params.n; ++choice) {
        const Transcript& whole = reference.at(static_cast<size_t>(choice));
        const Transcript& got = engine_.of(request.id, choice);
        const std::string name = str(request.id, " choice ", choice);
        if (got.finish == FinishReason::abort) {
          ASSERT_LE(got.tokens.size(), whole.tokens.size()) << name;
          EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), whole.tokens.begin())) << name;
        } else {
          expect_same(got, whole, name);
        }
      }
    }
  }

  std::mt19937 random_;
  Faults faults_;
  bool allocations_fail_ = false;
  SimOptions options_;
  SimEngine engine_;
  std::vector<Request> requests_;
  int num_requests_ = 0;
  int num_refused_ = 0;
  int64_t num_idle_steps_ = 0;
};

TEST(RandomWalk, keeps_every_invariant_and_every_token) {
  Stats total;
  int num_refused = 0;
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE(str("seed ", seed));
    Walk walk(seed);
    walk.run(150);
    ASSERT_FALSE(HasFailure());
    for_each_field<Stats>([&](const auto& row) { total.*row.member += walk.stats().*row.member; });
    num_refused += walk.num_refused();
  }
  // The walk went everywhere.
  EXPECT_GT(total.num_preemptions_recompute, 300);
  EXPECT_GT(total.num_preemptions_swap, 200);
  EXPECT_GT(total.num_swapped_in_blocks, 500);
  EXPECT_EQ(total.num_preemptions, total.num_preemptions_recompute + total.num_preemptions_swap);
  EXPECT_GT(total.prefix_cache_hits, 1000);
  EXPECT_GT(total.num_finished_stop, 500);
  EXPECT_GT(total.num_finished_length, 500);
  EXPECT_GT(total.num_finished_abort, 500);
  EXPECT_GT(total.num_finished_error, 100);
  EXPECT_GT(total.spec_decode_num_accepted_tokens, 500);
  EXPECT_GT(total.spec_decode_num_draft_tokens - total.spec_decode_num_accepted_tokens, 300);
  EXPECT_GT(num_refused, 500);
}

}  // namespace
}  // namespace pagoda::sim

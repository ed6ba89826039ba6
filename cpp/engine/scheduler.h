// Decides what each step computes: which sequences run, how many of their tokens, in which blocks, and who must yield.
// Owns all live sequences; knows no device and no model. Called by the engine loop: add/abort, schedule, (the step runs),
// commit.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/fair_turns.h"
#include "engine/limits.h"
#include "engine/preemption.h"
#include "engine/scheduling_rules.h"
#include "engine/sequence.h"
#include "engine/stats.h"
#include "engine/step.h"
#include "engine/step_cost.h"
#include "engine/trace.h"
#include "kv/kv_manager.h"
#include "kv/swap_space.h"

namespace pagoda {

/// There are no phases: a step moves each sequence's num_computed toward its known tokens, within one token budget. Sequences
/// are served in one order, see SchedulingPolicy, both in the running and in the waiting queue:
/// 1. Running sequences get their tokens first, in order, long prompts in chunks that leave room for all who need just one. One
///    that needs a block when none is free takes those of the last running sequence, which then waits at its old place. What
///    that one had computed is copied to the host (swap) or will be computed again (recompute), see preemption.h.
/// 2. Then waiting ones start, in order, none overtaking another. One starts only if all its known tokens fit and, unless it
/// runs
///    alone, some blocks remain free: the watermark, and for one that was preempted more with each time, doubling. So a
///    sequence is preempted O(log blocks) times before it runs through, and one that runs alone always can.
/// 3. Full blocks become findable when the step that computes them is planned: each layer stores all keys and values of a step
///    before any attention of that layer reads, so requests that arrive together already share their prefix.
/// 4. The last known token is always computed, never taken from the cache: its logits are needed.
/// 5. The n choices of a request share the full blocks of the prompt. A choice that starts when the prompt is computed gets a
/// copy
///    of the last block that is not full, and computes one token of the prompt.
/// 6. A step may be planned before the one before it is committed, if the device runs steps in the order of their plans. A
///    sequence that draws a token in the first continues in the second behind that token, if nothing depends on which token it
///    is; else it waits for the commit. What the second gave a sequence that the first ended is dropped.
/// 7. What is left of the step's tokens and blocks goes to draft tokens: guesses at what comes behind the newest token of a
///    sequence, computed with it. Each position draws as it would alone, so a draft changes nothing but how many tokens a step
///    gives.
class Scheduler {
 public:
  /// `kv` must outlive the scheduler.
  Scheduler(const Limits& limits, SchedulingRules rules, std::vector<int32_t> eos_tokens, KvManager& kv);

  /// Queues the request's n sequences; all or none. Throws InvalidArgument or Overloaded.
  void add(std::shared_ptr<const Request> request);
  /// Ends the request's live sequences (only choice `choice`, if that is not kAllChoices) for `reason`, each with one output.
  /// No-op for an unknown id. Steps that are planned and not committed may name them: what those give them is dropped.
  void abort(std::string_view request_id, int32_t choice, std::vector<Output>& outputs,
             FinishReason reason = FinishReason::abort);
  /// Ends all live sequences for `reason`.
  void end_all(FinishReason reason, const std::string& error, std::vector<Output>& outputs);

  /// Plans the next step, with fewer than kMaxStepsInFlight planned and not committed. Empty when nothing can run. Valid until
  /// it is committed; an empty one, which is not, until the next call.
  const StepPlan& schedule();
  /// Takes over the results of the oldest step that is not committed, in plan order; appends what each sequence has to tell.
  /// Moves out of `result`.
  void commit(const StepPlan& plan, StepResult& result, std::vector<Output>& outputs);

  /// For PreemptionMode::automatic; may change from step to step.
  void set_costs(const PreemptionCosts& costs) { costs_ = costs; }
  /// What steps that only decode take: decides how many draft tokens are worth their place.
  StepCost& step_cost() { return step_cost_; }
  /// Preemptions since the last call, in order; the latest kMaxNotices of them.
  std::vector<PreemptionNotice> take_notices() { return std::exchange(notices_, {}); }
  static constexpr size_t kMaxNotices = 16;

  bool has_work() const { return !running_.empty() || !waiting_.empty(); }
  /// Sequences that were never scheduled, and the tokens of their prompts; these are what max_num_queued_... bounds.
  int64_t num_unstarted() const { return num_unstarted_; }
  int64_t num_unstarted_tokens() const { return num_unstarted_tokens_; }
  /// Sequences that were scheduled for the first time, since the start.
  int64_t num_started() const { return num_started_; }
  /// Makes all cached prefixes unfindable; running sequences keep their blocks.
  void reset_prefix_cache() { kv_.forget(); }
  Stats stats() const;
  /// Where the scheduler tells what happens; the engine loop adds the steps.
  Trace& trace() { return trace_; }

  /// Checks I1-I3 and I5-I7 of the invariants in docs/ARCHITECTURE.md over all live sequences and blocks. Throws InternalError.
  void check_integrity() const;

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  bool continue_running();
  void start_waiting();
  Sequence& next_waiting();
  bool start(Sequence& seq);
  BlockTable known_blocks(const Sequence& seq, const Sequence* sibling);
  const Sequence* running_sibling(const Sequence& seq) const;
  bool prompt_is_stored(const Sequence& seq) const;
  int64_t headroom(const Sequence& seq) const;
  bool grow(Sequence& seq);
  void preempt_last();
  bool swap_out(Sequence& seq, PreemptionNotice& notice);
  void swap_in(Sequence& seq, int64_t num_found);
  StepPlan& newest() { return plans_[newest_]; }
  int64_t chunk_end(const Sequence& seq) const;
  void plan(Sequence& seq, int64_t end);
  void plan_pooling(Sequence& seq, PlannedSeq& planned);
  void publish(Sequence& seq);
  void count_first_schedule(Sequence& seq, int64_t num_cached);
  void count_unstarted(const Sequence& seq, int64_t sign);
  void pool(const PlannedSeq& planned, SequenceResult& result, std::vector<Output>& outputs);
  void append_tokens(const PlannedSeq& planned, SequenceResult& result, std::vector<Output>& outputs);
  void add_drafts();
  int64_t num_worthwhile(const Sequence& seq) const;
  int64_t draft_length(const PlannedSeq& planned) const;
  void settle_draft(const PlannedSeq& planned, int64_t num_drawn);
  void guess(Sequence& seq, std::span<const int32_t> came);
  void set_finish(const Sequence& seq, Output& output) const;
  void finish(Sequence& seq, FinishReason reason);
  void end(Sequence& seq, FinishReason reason, const std::string& error, std::vector<Output>& outputs);
  SequencePtr take(Sequence& seq);

  Limits limits_;
  SchedulingRules rules_;
  std::vector<int32_t> eos_tokens_;
  KvManager& kv_;
  SwapSpace swap_space_;
  PreemptionCosts costs_;
  StepCost step_cost_;
  std::vector<PreemptionNotice> notices_;
  FairTurns turns_;  // of tenants, under the policy fair

  std::vector<SequencePtr> running_;   // in order of service
  std::deque<SequencePtr> waiting_;    // in order of service: never scheduled, and preempted
  std::vector<SequencePtr> finished_;  // kept as long as plans that are not committed point to them
  std::array<StepPlan, kMaxStepsInFlight> plans_;
  size_t newest_ = 0;  // of plans_
  Stats stats_;        // without gauges, which stats() adds
  Trace trace_{stats_};
  int64_t num_unstarted_ = 0;
  int64_t num_unstarted_tokens_ = 0;
  int64_t num_started_ = 0;
  int64_t num_continued_ = 0;  // sequences of the step being planned that ran before
  int64_t num_reserved_ = 0;   // tokens of the step being planned that later running sequences need
  uint64_t next_id_ = 0;
  uint64_t next_turn_ = 0;
};

}  // namespace pagoda

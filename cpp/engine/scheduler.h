// Decides what each step computes: which sequences run, how many of their tokens, in which blocks, and who must yield.
// Owns all live sequences; knows no device and no model. Called by the engine loop: add/abort, schedule, (the step runs),
// commit.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/limits.h"
#include "engine/sequence.h"
#include "engine/stats.h"
#include "engine/step.h"
#include "kv/kv_manager.h"

namespace pagoda {

/// There are no phases: a step moves each sequence's num_computed toward its known tokens, within one token budget. Sequences
/// are served in one order, priority then arrival, both in the running and in the waiting queue:
/// 1. Running sequences get their tokens first, in order. One that needs a block when none is free takes those of the last
/// running
///    sequence, which then waits at its old place and later computes its prompt and output again.
/// 2. Then waiting ones start, in order, none overtaking another. One starts only if all its known tokens fit: so after a
/// preemption it
///    cannot start again before another sequence has ended, and preemptions stay few.
/// 3. Full blocks become findable when the step that computes them is planned: each layer stores all keys and values of a step
/// before any
///    attention of that layer reads, so requests that arrive together already share their prefix.
/// 4. The last known token is always computed, never taken from the cache: its logits are needed.
/// 5. A step may be planned before the one before it is committed, if the device runs steps in the order of their plans. A
/// sequence that draws a token in the first continues in the second behind that token, if nothing depends on which token it is;
/// else it waits for the commit. What the second gave a sequence that the first ended is dropped.
class Scheduler {
 public:
  /// `priority_order`: lower SamplingParams::priority first; otherwise first come, first served. `kv` must outlive the
  /// scheduler.
  Scheduler(const Limits& limits, bool priority_order, std::vector<int32_t> eos_tokens, KvManager& kv);

  /// Queues the request's n sequences; all or none. Throws InvalidArgument or Overloaded.
  void add(std::shared_ptr<const Request> request);
  /// Ends the request's live sequences (only choice `choice`, if that is not kAllChoices), each with one output. No-op for an
  /// unknown id. Steps that are planned and not committed may name them: what those give them is dropped.
  void abort(std::string_view request_id, int32_t choice, std::vector<Output>& outputs);
  /// Ends all live sequences for `reason`.
  void end_all(FinishReason reason, const std::string& error, std::vector<Output>& outputs);

  /// Plans the next step, with fewer than kMaxStepsInFlight planned and not committed. Empty when nothing can run. Valid until
  /// it is committed; an empty one, which is not, until the next call.
  const StepPlan& schedule();
  /// Takes over the results of the oldest step that is not committed, in plan order; appends what each sequence has to tell.
  /// Moves out of `result`.
  void commit(const StepPlan& plan, StepResult& result, std::vector<Output>& outputs);

  bool has_work() const { return !running_.empty() || !waiting_.empty(); }
  /// Sequences that were never scheduled; these are what max_waiting bounds.
  int64_t num_unstarted() const { return num_unstarted_; }
  Stats stats() const;

  /// Checks I1-I3 and I5-I7 of the invariants in docs/ARCHITECTURE.md over all live sequences and blocks. Throws InternalError.
  void check_integrity() const;

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  bool continue_running();
  void start_waiting();
  bool start(Sequence& seq);
  bool grow(Sequence& seq);
  void preempt_last();
  StepPlan& newest() { return plans_[newest_]; }
  int64_t chunk_end(const Sequence& seq) const;
  void plan(Sequence& seq, int64_t end);
  void publish(Sequence& seq);
  void count_first_schedule(Sequence& seq);
  void append_token(Sequence& seq, SequenceResult& result, std::vector<Output>& outputs);
  void set_finish(const Sequence& seq, Output& output) const;
  void finish(Sequence& seq, FinishReason reason);
  void end(Sequence& seq, FinishReason reason, const std::string& error, std::vector<Output>& outputs);
  SequencePtr take(Sequence& seq);

  Limits limits_;
  bool priority_order_;
  std::vector<int32_t> eos_tokens_;
  KvManager& kv_;

  std::vector<SequencePtr> running_;   // in order of service
  std::deque<SequencePtr> waiting_;    // in order of service: never scheduled, and preempted
  std::vector<SequencePtr> finished_;  // kept as long as plans that are not committed point to them
  std::array<StepPlan, kMaxStepsInFlight> plans_;
  size_t newest_ = 0;  // of plans_
  Stats stats_;        // counters only; stats() adds the gauges
  int64_t num_unstarted_ = 0;
  uint64_t next_id_ = 0;
};

}  // namespace pagoda

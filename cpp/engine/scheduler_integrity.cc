// Scheduler::check_integrity: the invariants of all live sequences and blocks, for tests and soak runs.
#include <algorithm>
#include <utility>

#include "core/check.h"
#include "engine/scheduler.h"

namespace pagoda {
namespace {

void check_common(const Sequence& seq, const Limits& limits) {
  ensure(seq.num_prompt >= 1 && seq.num_prompt <= seq.num_tokens(), "sequence ", seq.id, " lost its prompt");
  ensure(seq.num_tokens() <= limits.max_context(), "sequence ", seq.id, " has ", seq.num_tokens(), " tokens, allowed are ",
         limits.max_context());
  ensure(seq.num_output() < seq.max_output || seq.pools(), "sequence ", seq.id, " should have finished");
  ensure(
      seq.num_pending >= 0 && seq.num_pending <= seq.num_in_flight && std::cmp_less_equal(seq.num_in_flight, kMaxStepsInFlight),
      "sequence ", seq.id, " expects ", seq.num_pending, " tokens of ", seq.num_in_flight, " steps");
  ensure(seq.finish == FinishReason::none, "sequence ", seq.id, " is live and has a finish reason");
}

void check_waiting(const Sequence& seq, const KvManager& kv) {
  ensure(seq.state == SequenceState::waiting || seq.state == SequenceState::preempted, "sequence ", seq.id,
         " waits in a wrong state");
  ensure(seq.table.blocks.empty(), "waiting sequence ", seq.id, " holds blocks");
  ensure(std::ssize(seq.host_blocks) == kv.blocks_for(seq.num_computed), "waiting sequence ", seq.id, " keeps ",
         seq.num_computed, " tokens in ", seq.host_blocks.size(), " blocks on the host");
  ensure(!seq.is_swapped() || seq.state == SequenceState::preempted, "sequence ", seq.id, " is swapped but never ran");
  ensure(seq.num_output() == 0 || seq.state == SequenceState::preempted, "sequence ", seq.id, " has output but never ran");
}

void check_running(const Sequence& seq, const KvManager& kv) {
  ensure(seq.state == SequenceState::running, "sequence ", seq.id, " runs in a wrong state");
  ensure(seq.num_computed >= 1 && seq.num_computed <= seq.num_expected(), "sequence ", seq.id, " has computed ",
         seq.num_computed, " of ", seq.num_expected(), " tokens");
  ensure(!seq.is_swapped(), "running sequence ", seq.id, " holds blocks on the host");
  const int64_t num_blocks = std::ssize(seq.table.blocks);
  // The token that a step has just drawn gets its block when it is planned.
  const int64_t num_stored = seq.num_expected() + (seq.num_draft ? seq.num_draft - 1 : 0);
  ensure(num_blocks == kv.blocks_for(num_stored) || num_blocks == kv.blocks_for(num_stored - 1), "sequence ", seq.id, " has ",
         num_blocks, " blocks for ", num_stored, " tokens");
  const int64_t num_full = std::min(seq.num_computed, seq.num_tokens()) / kv.block_size();
  ensure(seq.table.num_published == num_full, "sequence ", seq.id, " has published ", seq.table.num_published, " of ", num_full,
         " full blocks");
}

template <class Queue>
void check_order(const Queue& queue, const char* name) {
  const auto out_of_order =
      std::adjacent_find(queue.begin(), queue.end(), [](const auto& a, const auto& b) { return !a->before(*b); });
  ensure(out_of_order == queue.end(), "the ", name, " queue is out of order or holds a sequence twice");
}

}  // namespace

void Scheduler::check_integrity() const {
  check_order(running_, "running");
  check_order(waiting_, "waiting");
  ensure(std::ssize(running_) <= limits_.max_running(), running_.size(), " sequences run, allowed are ", limits_.max_running());
  std::vector<const BlockTable*> tables;
  for (const SequencePtr& seq : running_) {
    check_common(*seq, limits_);
    check_running(*seq, kv_);
    tables.push_back(&seq->table);
  }
  int64_t num_unstarted = 0, num_unstarted_tokens = 0;
  std::vector<const std::vector<BlockId>*> swapped;
  for (const SequencePtr& seq : waiting_) {
    check_common(*seq, limits_);
    check_waiting(*seq, kv_);
    swapped.push_back(&seq->host_blocks);
    if (seq->state == SequenceState::waiting) ++num_unstarted, num_unstarted_tokens += seq->num_prompt;
    ensure(std::ranges::none_of(running_, [&](const SequencePtr& other) { return other->id == seq->id; }), "sequence ", seq->id,
           " runs and waits");
  }
  ensure(num_unstarted_tokens == num_unstarted_tokens_, num_unstarted_tokens, " prompt tokens wait, the count says ",
         num_unstarted_tokens_);
  ensure(num_unstarted == num_unstarted_, num_unstarted, " sequences never ran, the count says ", num_unstarted_);
  for (const SequencePtr& seq : finished_) {
    ensure(seq->state == SequenceState::finished && seq->table.blocks.empty() && !seq->is_swapped(), "finished sequence ",
           seq->id, " holds blocks");
  }
  kv_.check_integrity(tables);
  swap_space_.check_integrity(swapped);
}

}  // namespace pagoda

// The part of the scheduler that speculates: which draft tokens a step tries, and what becomes of them.
#include <algorithm>

#include "engine/scheduler.h"

namespace pagoda {

/// Gives the sequences that draw a token what is left of the step, in order.
void Scheduler::add_drafts() {
  StepPlan& plan = newest();
  for (PlannedSeq& planned : plan.seqs) {
    if (!planned.wants_token) continue;
    Sequence& seq = *planned.seq;
    seq.draw_row += static_cast<int32_t>(plan.num_draft);  // behind the rows of the drafts before it
    const int64_t length = draft_length(planned);
    if (length <= 0 || !kv_.reserve(seq.table, planned.end + length)) continue;
    planned.draft = seq.drafter.guessed().first(static_cast<size_t>(length));
    seq.num_draft = length;
    plan.num_draft += length;
    plan.num_tokens += length;
    plan.num_rows += length;
    ++stats_.spec_decode_num_drafts;
    stats_.spec_decode_num_draft_tokens += length;
  }
}

/// Tokens that the sequence's next step should try, if there is room.
int64_t Scheduler::num_worthwhile(const Sequence& seq) const {
  if (!rules_.draft.max_tokens) return 0;
  return seq.drafter.num_worthwhile(step_cost_.token_price(std::max<int64_t>(std::ssize(running_), 1)));
}

/// How many of those find room. None of them may cost another sequence its blocks, now or soon.
int64_t Scheduler::draft_length(const PlannedSeq& planned) const {
  const Sequence& seq = *planned.seq;
  const StepPlan& plan = plans_[newest_];
  if (planned.end != seq.num_tokens() || planned.end - planned.begin != 1) return 0;
  const int64_t length =
      std::min({num_worthwhile(seq), seq.max_output - seq.num_output() - 1, limits_.max_num_batched_tokens - plan.num_tokens,
                limits_.max_draft_rows() - plan.num_draft});
  const int64_t num_blocks = std::ssize(seq.table.blocks);
  const int64_t num_spare = kv_.num_free() - limits_.watermark_blocks - std::ssize(running_);
  if (kv_.blocks_for(planned.end + length) - num_blocks <= std::max<int64_t>(num_spare, 0)) return length;
  return num_blocks * kv_.block_size() - planned.end;
}

/// The step drew `num_drawn` tokens, so the keys and values of as many tokens from planned.end - 1 on are right.
void Scheduler::settle_draft(const PlannedSeq& planned, int64_t num_drawn) {
  Sequence& seq = *planned.seq;
  stats_.spec_decode_num_accepted_tokens += num_drawn - 1;
  if (seq.state != SequenceState::running) return;  // what it keeps on the host ends with planned.end
  seq.num_computed = planned.end + num_drawn - 1;
  publish(seq);
  kv_.trim(seq.table, seq.num_tokens());
}

void Scheduler::guess(Sequence& seq, std::span<const int32_t> came) {
  if (!seq.draws_freely()) return;
  seq.drafter.learn(came);
  seq.drafter.guess(seq.tokens, rules_.draft);
}

}  // namespace pagoda

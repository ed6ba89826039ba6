// The scheduler: one order of service, one token budget, preemption from the end.
#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr auto kInOrder = [](const auto& a, const auto& b) { return a->before(*b); };

template <class Queue>
void insert_in_order(Queue& queue, std::unique_ptr<Sequence> seq) {
  const auto where = std::upper_bound(queue.begin(), queue.end(), seq, kInOrder);
  queue.insert(where, std::move(seq));
}

}  // namespace

Scheduler::Scheduler(const Limits& limits, SchedulingRules rules, std::vector<int32_t> eos_tokens, KvManager& kv)
    : limits_(limits), rules_(rules), eos_tokens_(std::move(eos_tokens)), kv_(kv), swap_space_(limits.num_swap_blocks) {
  ensure(limits.num_blocks == kv.num_blocks() && limits.block_size == kv.block_size(), "limits and KV manager differ");
  running_.reserve(static_cast<size_t>(limits.max_running()));
}

void Scheduler::add(std::shared_ptr<const Request> request) {
  limits_.validate(*request);
  const int64_t n = request->params.n;
  limits_.check_queue({num_unstarted_, num_unstarted_tokens_}, *request);
  std::vector<SequencePtr> added;
  for (int32_t choice = 0; choice < n; ++choice) {
    auto seq = std::make_unique<Sequence>();
    seq->id = next_id_++;
    if (rules_.policy == SchedulingPolicy::priority) seq->priority = request->params.priority;
    if (rules_.policy == SchedulingPolicy::fair) seq->turn = Sequence::kNoTurn;
    seq->request = request;
    seq->choice = choice;
    seq->key = choice_key(*request->params.seed, choice);
    seq->tokens = request->prompt;
    seq->num_prompt = std::ssize(request->prompt);
    seq->max_output = limits_.max_output(*request);
    if (request->pooling == Pooling::last) seq->num_pool_positions = seq->num_prompt - 1;
    if (request->params.uses_penalties()) seq->counts.add_prompt(request->prompt);
    if (request->masks) seq->mask = request->masks->open(request->id, choice);
    added.push_back(std::move(seq));
  }
  for (SequencePtr& seq : added) {
    count_unstarted(*seq, 1);
    if (rules_.policy == SchedulingPolicy::fair) turns_.arrived(seq->tenant());
    trace_.queued(*seq);
    insert_in_order(waiting_, std::move(seq));
  }
}

void Scheduler::count_unstarted(const Sequence& seq, int64_t sign) {
  num_unstarted_ += sign;
  num_unstarted_tokens_ += sign * seq.num_prompt;
}

void Scheduler::abort(std::string_view request_id, int32_t choice, std::vector<Output>& outputs, FinishReason reason) {
  const auto meant = [&](const Sequence& seq) {
    return seq.request->id == request_id && (choice == kAllChoices || choice == seq.choice);
  };
  std::vector<Sequence*> aborted;
  for (const SequencePtr& seq : running_) {
    if (meant(*seq)) aborted.push_back(seq.get());
  }
  for (const SequencePtr& seq : waiting_) {
    if (meant(*seq)) aborted.push_back(seq.get());
  }
  for (Sequence* seq : aborted) end(*seq, reason, {}, outputs);
}

void Scheduler::end_all(FinishReason reason, const std::string& error, std::vector<Output>& outputs) {
  while (!running_.empty()) end(*running_.back(), reason, error, outputs);
  while (!waiting_.empty()) end(*waiting_.back(), reason, error, outputs);
}

const StepPlan& Scheduler::schedule() {
  std::erase_if(finished_, [](const SequencePtr& seq) { return seq->num_in_flight == 0; });
  if (newest().seqs.empty()) {
    // Blocks that a plan without sequences wanted to copy to the host are still to be copied.
    std::vector<BlockCopy> swap_out = std::move(newest().swap_out);
    newest().clear();
    newest().swap_out = std::move(swap_out);
  } else {
    newest_ = (newest_ + 1) % plans_.size();
    newest().clear();
  }
  if (continue_running()) start_waiting();
  if (rules_.draft.max_tokens) add_drafts();
  return newest();
}

/// False if a sequence had to yield: then nobody may start in this step.
bool Scheduler::continue_running() {
  const int64_t num_preemptions = stats_.num_preemptions;
  const auto needs_one = [](const Sequence& seq) { return seq.num_expected() - seq.num_computed == 1; };
  num_reserved_ = std::ranges::count_if(running_, [&](const SequencePtr& seq) { return needs_one(*seq); });
  for (size_t i = 0; i < running_.size(); ++i) {  // preemption shortens the queue, but only behind i or at i
    Sequence& seq = *running_[i];
    num_reserved_ -= needs_one(seq);
    if (seq.num_pending && (!seq.can_run_ahead() || num_worthwhile(seq) > 0)) continue;
    const int64_t end = chunk_end(seq);
    if (end == seq.num_computed) continue;
    if (!grow(seq)) break;
    plan(seq, end);
  }
  num_reserved_ = 0;
  num_continued_ = std::ssize(newest().seqs);
  return stats_.num_preemptions == num_preemptions;
}

void Scheduler::start_waiting() {
  while (!waiting_.empty() && std::ssize(running_) < limits_.max_running() && start(next_waiting())) {
    SequencePtr seq = std::move(waiting_.front());
    waiting_.pop_front();
    insert_in_order(running_, std::move(seq));
  }
}

/// The first waiting sequence. If none has a turn yet, a tenant's turn comes.
Sequence& Scheduler::next_waiting() {
  if (waiting_.front()->turn != Sequence::kNoTurn) return *waiting_.front();
  std::vector<FairTurns::Candidate> candidates;
  std::vector<size_t> places;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    const Sequence& seq = *waiting_[i];
    if (std::ranges::find(candidates, seq.tenant(), &FairTurns::Candidate::tenant) != candidates.end()) continue;
    candidates.push_back({seq.tenant(), seq.num_tokens()});
    places.push_back(i);
  }
  const auto place = static_cast<std::ptrdiff_t>(places[turns_.choose(candidates)]);
  SequencePtr seq = std::move(waiting_[static_cast<size_t>(place)]);
  waiting_.erase(waiting_.begin() + place);
  seq->turn = next_turn_++;
  waiting_.push_front(std::move(seq));
  return *waiting_.front();
}

/// Gives a waiting sequence blocks for all its known tokens and plans its first chunk. False if it must go on waiting.
bool Scheduler::start(Sequence& seq) {
  if (seq.num_pending) return false;  // preempted in a step that is not committed yet
  const Sequence* sibling = seq.state == SequenceState::waiting ? running_sibling(seq) : nullptr;
  const bool sibling_is_ready = sibling && prompt_is_stored(*sibling);
  if (sibling && !sibling_is_ready && !kv_.prefix_cache()) return false;  // soon it need not compute the prompt
  const int64_t num_kept = seq.num_computed;                              // on the host
  BlockTable table = known_blocks(seq, sibling);
  const int64_t num_found = std::ssize(table.blocks);
  seq.num_computed = std::max(num_kept, num_found * kv_.block_size());
  const bool forks = sibling_is_ready && num_found == (seq.num_prompt - 1) / kv_.block_size();
  if (forks) seq.num_computed = seq.num_prompt - 1;
  const int64_t end = chunk_end(seq);
  const int64_t num_needed = kv_.blocks_for(seq.num_tokens()) - num_found;
  const bool fits = end > seq.num_computed && kv_.num_free() - num_needed >= headroom(seq);
  if (!fits || !kv_.reserve(table, seq.num_tokens())) {
    kv_.release(table);
    seq.num_computed = num_kept;
    return false;
  }
  seq.table = std::move(table);
  if (seq.is_swapped()) swap_in(seq, num_found);
  if (forks && seq.num_computed % kv_.block_size()) {
    const auto last = static_cast<size_t>(num_found);
    newest().copies.push_back({sibling->table.blocks[last], seq.table.blocks[last]});
  }
  trace_.admitted(seq);
  if (seq.state == SequenceState::waiting) count_first_schedule(seq, kv_.prefix_cache() ? num_found * kv_.block_size() : 0);
  seq.state = SequenceState::running;
  plan(seq, end);
  return true;
}

/// Blocks of the cache that already hold the sequence's first tokens.
BlockTable Scheduler::known_blocks(const Sequence& seq, const Sequence* sibling) {
  if (!kv_.prefix_cache() && sibling) return kv_.share(sibling->table, (seq.num_prompt - 1) / kv_.block_size());
  // Of a swapped sequence what the host has; else positions that still owe prompt logprobs or hidden states must be computed;
  // so must the last token.
  const bool owes_rows = seq.num_prompt_rows < seq.prompt_rows_end();
  const int64_t most = seq.is_swapped() ? seq.num_computed
                       : owes_rows      ? seq.num_prompt_rows
                       : seq.pools()    ? std::min(seq.num_pool_positions, seq.num_tokens() - 1)
                                        : seq.num_tokens() - 1;
  return kv_.match_prefix(seq.tokens, seq.salt(), most);
}

/// A running choice of the same request, if possible one whose prompt is stored.
const Sequence* Scheduler::running_sibling(const Sequence& seq) const {
  const Sequence* found = nullptr;
  if (seq.params().n == 1) return found;
  for (const SequencePtr& other : running_) {
    if (other->request != seq.request) continue;
    if (!found || prompt_is_stored(*other)) found = other.get();
  }
  return found;
}

/// Whether the steps before the one being planned have stored all of the prompt but its last token. What a sequence that starts
/// in this step has found in the cache may be computed in this step.
bool Scheduler::prompt_is_stored(const Sequence& seq) const {
  const std::vector<PlannedSeq>& planned = plans_[newest_].seqs;
  const auto in_step = std::ranges::find(planned, &seq, &PlannedSeq::seq);
  if (in_step == planned.end()) return seq.num_computed >= seq.num_prompt - 1;
  return in_step - planned.begin() < num_continued_ && in_step->begin >= seq.num_prompt - 1;
}

/// Blocks that must be free besides those of its known tokens when a sequence starts beside others, as long as it can use them.
int64_t Scheduler::headroom(const Sequence& seq) const {
  if (running_.empty()) return 0;
  constexpr int kMaxDoublings = 30;
  const int64_t doubling = seq.num_preemptions ? int64_t{1} << std::min(seq.num_preemptions, kMaxDoublings) : 0;
  const int64_t to_come = kv_.blocks_for(seq.num_prompt + seq.max_output) - kv_.blocks_for(seq.num_tokens());
  return std::min(limits_.watermark_blocks + doubling, to_come);
}

/// `num_cached`: prompt tokens that the prefix cache had; those of a sibling are none of them.
void Scheduler::count_first_schedule(Sequence& seq, int64_t num_cached) {
  count_unstarted(seq, -1);
  ++num_started_;
  seq.num_cached_tokens = static_cast<int32_t>(num_cached);
  stats_.num_prompt_tokens += seq.num_prompt;
  if (!kv_.prefix_cache()) return;
  stats_.prefix_cache_queries += seq.num_prompt;
  stats_.prefix_cache_hits += num_cached;
}

/// Makes room for all expected tokens of a running sequence, at the cost of later ones. False if it had to yield itself.
bool Scheduler::grow(Sequence& seq) {
  while (!kv_.reserve(seq.table, seq.num_expected())) {
    const bool yields_itself = running_.back().get() == &seq;
    preempt_last();
    if (yields_itself) return false;
  }
  return true;
}

void Scheduler::preempt_last() {
  SequencePtr seq = std::move(running_.back());
  running_.pop_back();
  trace_.preempted(*seq);
  PreemptionNotice notice{.request_id = seq->request->id, .choice = seq->choice};
  notice.num_tokens = seq->num_computed;
  notice.num_blocks = std::ssize(seq->table.blocks);
  notice.free_blocks_before = kv_.num_free();
  notice.num_running = std::ssize(running_);
  notice.total = ++stats_.num_preemptions;
  notice.swapped = swap_out(*seq, notice);
  if (!notice.swapped) seq->num_computed = 0;
  ++(notice.swapped ? stats_.num_preemptions_swap : stats_.num_preemptions_recompute);
  kv_.release(seq->table);
  notice.free_blocks_after = kv_.num_free();
  if (notices_.size() == kMaxNotices) notices_.erase(notices_.begin());
  notices_.push_back(std::move(notice));
  seq->state = SequenceState::preempted;
  ++seq->num_preemptions;
  insert_in_order(waiting_, std::move(seq));
}

/// Plans the copy of what a running sequence has computed to the host, if it shall be kept and there is room.
bool Scheduler::swap_out(Sequence& seq, PreemptionNotice& notice) {
  const int64_t num_blocks = kv_.blocks_for(seq.num_computed);
  if (!limits_.num_swap_blocks || !prefers_swap(rules_.preemption, costs_, num_blocks, seq.num_computed)) return false;
  std::optional<std::vector<BlockId>> host_blocks = swap_space_.take(num_blocks);
  notice.swap_was_full = !host_blocks;
  if (!host_blocks) return false;
  seq.host_blocks = std::move(*host_blocks);
  for (size_t i = 0; i < seq.host_blocks.size(); ++i) newest().swap_out.push_back({seq.table.blocks[i], seq.host_blocks[i]});
  stats_.num_swapped_out_blocks += num_blocks;
  trace_.swapped(seq, TraceKind::swapped_out, num_blocks);
  return true;
}

/// Plans the copy back into the sequence's new blocks, but for the first `num_found`, which were still in the cache.
void Scheduler::swap_in(Sequence& seq, int64_t num_found) {
  for (auto i = static_cast<size_t>(num_found); i < seq.host_blocks.size(); ++i) {
    newest().swap_in.push_back({seq.host_blocks[i], seq.table.blocks[i]});
    ++stats_.num_swapped_in_blocks;
  }
  trace_.swapped(seq, TraceKind::swapped_in, std::ssize(seq.host_blocks) - num_found);
  swap_space_.give_back(seq.host_blocks);
}

/// Where the sequence's next chunk ends under what is left of the step's budgets; num_computed if it can get nothing.
int64_t Scheduler::chunk_end(const Sequence& seq) const {
  const StepPlan& plan = plans_[newest_];
  int64_t tokens_left = limits_.max_num_batched_tokens - plan.num_tokens - num_reserved_;
  if (limits_.max_prefill_chunk) tokens_left = std::min(tokens_left, limits_.max_prefill_chunk);
  const int64_t end = std::min(seq.num_expected(), seq.num_computed + tokens_left);
  const int64_t rows_begin = std::max(seq.num_computed, seq.num_prompt_rows);
  const int64_t rows_left = limits_.max_prompt_rows() - plan.num_prompt_rows;
  if (std::min(end, seq.prompt_rows_end()) - rows_begin <= rows_left) return end;
  return rows_begin + rows_left;
}

void Scheduler::plan(Sequence& seq, int64_t end) {
  PlannedSeq planned{&seq, seq.num_computed, end};
  planned.rows_begin = std::max(seq.num_computed, seq.num_prompt_rows);
  planned.rows_end = std::max(planned.rows_begin, std::min(end, seq.prompt_rows_end()));
  planned.wants_token = end == seq.num_expected() && !seq.pools();
  if (end > seq.num_tokens()) planned.token_source = seq.draw_row;
  StepPlan& plan = newest();
  plan.num_tokens += end - seq.num_computed;
  plan.num_prompt_rows += planned.rows_end - planned.rows_begin;
  plan.num_rows += planned.rows_end - planned.rows_begin;
  if (planned.rows_end > planned.rows_begin) seq.num_prompt_rows = planned.rows_end;
  if (seq.pools()) plan_pooling(seq, planned);
  if (planned.wants_token) {
    seq.draw_row = static_cast<int32_t>(plan.num_rows++);
    ++seq.num_pending;
  }
  ++seq.num_in_flight;
  seq.num_computed = end;
  publish(seq);
  plan.seqs.push_back(planned);
  trace_.planned(planned);
}

/// Asks for the hidden states of positions that no step was asked for.
void Scheduler::plan_pooling(Sequence& seq, PlannedSeq& planned) {
  planned.pool_begin = std::max(planned.begin, seq.num_pool_positions);
  planned.pool_end = std::max(planned.pool_begin, planned.end);
  if (planned.pool_begin == planned.pool_end) return;
  seq.num_pool_positions = planned.pool_end;
  newest().wants_hidden = true;
}

/// Makes the full blocks of known and computed tokens findable.
void Scheduler::publish(Sequence& seq) {
  kv_.publish(seq.table, seq.tokens, std::min(seq.num_computed, seq.num_tokens()), seq.salt());
}

Stats Scheduler::stats() const {
  Stats stats = stats_;
  stats.num_running = std::ssize(running_);
  stats.num_waiting = std::ssize(waiting_);
  stats.num_swapped = std::ranges::count_if(waiting_, [](const SequencePtr& seq) { return seq->is_swapped(); });
  stats.num_swap_blocks = swap_space_.num_blocks();
  stats.num_free_swap_blocks = swap_space_.num_free();
  const auto oldest = std::ranges::min_element(waiting_, {}, [](const SequencePtr& seq) { return seq->times.arrival; });
  if (oldest != waiting_.end()) stats.queue_age_seconds = trace_.age((*oldest)->times.arrival);
  stats.num_kv_blocks = kv_.num_blocks();
  stats.num_free_blocks = kv_.num_free();
  stats.kv_cache_usage = 1 - static_cast<double>(kv_.num_free()) / static_cast<double>(kv_.num_blocks());
  return stats;
}

}  // namespace pagoda

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

Output output_of(const Sequence& seq) {
  Output output;
  output.request_id = seq.request->id;
  output.choice = seq.choice;
  output.num_cached_tokens = seq.num_cached_tokens.value_or(0);
  return output;
}

}  // namespace

Scheduler::Scheduler(const Limits& limits, bool priority_order, std::vector<int32_t> eos_tokens, KvManager& kv)
    : limits_(limits), priority_order_(priority_order), eos_tokens_(std::move(eos_tokens)), kv_(kv) {
  ensure(limits.num_blocks == kv.num_blocks() && limits.block_size == kv.block_size(), "limits and KV manager differ");
  running_.reserve(static_cast<size_t>(limits.max_running()));
}

void Scheduler::add(std::shared_ptr<const Request> request) {
  limits_.validate(*request);
  const int64_t n = request->params.n;
  limits_.check_queue(num_unstarted_, n);
  std::vector<SequencePtr> added;
  for (int32_t choice = 0; choice < n; ++choice) {
    auto seq = std::make_unique<Sequence>();
    seq->id = next_id_++;
    seq->priority = priority_order_ ? request->params.priority : 0;
    seq->request = request;
    seq->choice = choice;
    seq->key = choice_key(*request->params.seed, choice);
    seq->tokens = request->prompt;
    seq->num_prompt = std::ssize(request->prompt);
    seq->max_output = limits_.max_output(*request);
    if (request->params.uses_penalties()) seq->counts.add_prompt(request->prompt);
    added.push_back(std::move(seq));
  }
  for (SequencePtr& seq : added) insert_in_order(waiting_, std::move(seq));
  num_unstarted_ += n;
}

void Scheduler::abort(std::string_view request_id, int32_t choice, std::vector<Output>& outputs) {
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
  for (Sequence* seq : aborted) end(*seq, FinishReason::abort, {}, outputs);
}

void Scheduler::end_all(FinishReason reason, const std::string& error, std::vector<Output>& outputs) {
  while (!running_.empty()) end(*running_.back(), reason, error, outputs);
  while (!waiting_.empty()) end(*waiting_.back(), reason, error, outputs);
}

const StepPlan& Scheduler::schedule() {
  std::erase_if(finished_, [](const SequencePtr& seq) { return seq->num_in_flight == 0; });
  if (!newest().seqs.empty()) newest_ = (newest_ + 1) % plans_.size();
  newest().clear();
  if (continue_running()) start_waiting();
  return newest();
}

/// False if a sequence had to yield: then nobody may start in this step.
bool Scheduler::continue_running() {
  const int64_t num_preemptions = stats_.num_preemptions;
  for (size_t i = 0; i < running_.size(); ++i) {  // preemption shortens the queue, but only behind i or at i
    Sequence& seq = *running_[i];
    if (seq.num_pending && !seq.can_run_ahead()) continue;
    const int64_t end = chunk_end(seq);
    if (end == seq.num_computed) continue;
    if (!grow(seq)) break;
    plan(seq, end);
  }
  return stats_.num_preemptions == num_preemptions;
}

void Scheduler::start_waiting() {
  while (!waiting_.empty() && std::ssize(running_) < limits_.max_running() && start(*waiting_.front())) {
    SequencePtr seq = std::move(waiting_.front());
    waiting_.pop_front();
    insert_in_order(running_, std::move(seq));
  }
}

/// Gives a waiting sequence blocks for all its known tokens and plans its first chunk. False if it must go on waiting.
bool Scheduler::start(Sequence& seq) {
  if (seq.num_pending) return false;  // preempted in a step that is not committed yet
  // Positions that still owe prompt logprobs must be computed; so must the last token.
  const bool owes_rows = seq.num_prompt_rows < seq.prompt_rows_end();
  BlockTable table = kv_.match_prefix(seq.tokens, seq.salt(), owes_rows ? seq.num_prompt_rows : seq.num_tokens() - 1);
  seq.num_computed = std::ssize(table.blocks) * kv_.block_size();
  const int64_t end = chunk_end(seq);
  if (end == seq.num_computed || !kv_.reserve(table, seq.num_tokens())) {
    kv_.release(table);
    seq.num_computed = 0;
    return false;
  }
  seq.table = std::move(table);
  if (seq.state == SequenceState::waiting) count_first_schedule(seq);
  seq.state = SequenceState::running;
  plan(seq, end);
  return true;
}

void Scheduler::count_first_schedule(Sequence& seq) {
  --num_unstarted_;
  seq.num_cached_tokens = static_cast<int32_t>(seq.num_computed);
  stats_.num_prompt_tokens += seq.num_prompt;
  if (kv_.prefix_cache()) stats_.prefix_cache_queries += seq.num_prompt;
  stats_.prefix_cache_hits += seq.num_computed;
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
  kv_.release(seq->table);
  seq->num_computed = 0;
  seq->state = SequenceState::preempted;
  ++stats_.num_preemptions;
  insert_in_order(waiting_, std::move(seq));
}

/// Where the sequence's next chunk ends under what is left of the step's budgets; num_computed if it can get nothing.
int64_t Scheduler::chunk_end(const Sequence& seq) const {
  const StepPlan& plan = plans_[newest_];
  const int64_t tokens_left = limits_.max_num_batched_tokens - plan.num_tokens;
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
  planned.wants_token = end == seq.num_expected();
  if (end > seq.num_tokens()) planned.token_source = seq.draw_row;
  StepPlan& plan = newest();
  plan.num_tokens += end - seq.num_computed;
  plan.num_prompt_rows += planned.rows_end - planned.rows_begin;
  plan.num_rows += planned.rows_end - planned.rows_begin;
  if (planned.rows_end > planned.rows_begin) seq.num_prompt_rows = planned.rows_end;
  if (planned.wants_token) {
    seq.draw_row = static_cast<int32_t>(plan.num_rows++);
    ++seq.num_pending;
  }
  ++seq.num_in_flight;
  seq.num_computed = end;
  publish(seq);
  plan.seqs.push_back(planned);
}

/// Makes the full blocks of known and computed tokens findable.
void Scheduler::publish(Sequence& seq) {
  kv_.publish(seq.table, seq.tokens, std::min(seq.num_computed, seq.num_tokens()), seq.salt());
}

void Scheduler::commit(const StepPlan& plan, StepResult& result, std::vector<Output>& outputs) {
  ensure(result.seqs.size() == plan.seqs.size(), "a step of ", plan.seqs.size(), " sequences gave ", result.seqs.size(),
         " results");
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    Sequence& seq = *plan.seqs[i].seq;
    SequenceResult& got = result.seqs[i];
    --seq.num_in_flight;
    if (plan.seqs[i].wants_token) --seq.num_pending;
    if (seq.state == SequenceState::finished) continue;
    if (!got.error.empty()) {
      kv_.discard(seq.table);  // whatever made it fail may lie in what it read
      end(seq, FinishReason::error, got.error, outputs);
      continue;
    }
    std::ranges::move(got.prompt_logprobs, std::back_inserter(seq.prompt_logprobs));
    if (plan.seqs[i].wants_token) append_token(seq, got, outputs);
  }
}

void Scheduler::append_token(Sequence& seq, SequenceResult& result, std::vector<Output>& outputs) {
  seq.tokens.push_back(result.token);
  if (seq.params().uses_penalties()) seq.counts.add_output(result.token);
  ++stats_.num_generation_tokens;

  Output& output = outputs.emplace_back(output_of(seq));
  output.tokens.push_back(result.token);
  if (seq.params().logprobs) output.logprobs.push_back(std::move(result.logprobs));
  output.prompt_logprobs = std::exchange(seq.prompt_logprobs, {});
  set_finish(seq, output);
  if (output.finish != FinishReason::none) return finish(seq, output.finish);
  if (seq.state == SequenceState::running) publish(seq);
}

/// Decides whether the sequence's newest token is its last.
void Scheduler::set_finish(const Sequence& seq, Output& output) const {
  const SamplingParams& params = seq.params();
  const int32_t token = seq.tokens.back();
  const bool is_eos = !params.ignore_eos && std::ranges::find(eos_tokens_, token) != eos_tokens_.end();
  const bool is_stop = is_eos || std::ranges::find(params.stop_token_ids, token) != params.stop_token_ids.end();
  if (is_stop && seq.num_output() > params.min_tokens) {
    output.finish = FinishReason::stop;
    output.stop_token = token;
  } else if (seq.num_output() >= seq.max_output) {
    output.finish = FinishReason::length;
  }
}

void Scheduler::end(Sequence& seq, FinishReason reason, const std::string& error, std::vector<Output>& outputs) {
  Output& output = outputs.emplace_back(output_of(seq));
  output.finish = reason;
  output.error = error;
  finish(seq, reason);
}

/// Frees the sequence's blocks and takes it out of its queue. Steps in flight may still use the blocks: later steps, which may
/// get them, run after those.
void Scheduler::finish(Sequence& seq, FinishReason reason) {
  if (seq.state == SequenceState::waiting) --num_unstarted_;
  kv_.release(seq.table);
  finished_.push_back(take(seq));
  seq.state = SequenceState::finished;
  seq.finish = reason;
  switch (reason) {
    case FinishReason::stop:
      ++stats_.num_finished_stop;
      break;
    case FinishReason::length:
      ++stats_.num_finished_length;
      break;
    case FinishReason::abort:
      ++stats_.num_finished_abort;
      break;
    case FinishReason::error:
      ++stats_.num_finished_error;
      break;
    case FinishReason::none:
      ensure(false, "a sequence cannot finish without a reason");
  }
}

Scheduler::SequencePtr Scheduler::take(Sequence& seq) {
  const auto take_from = [&](auto& queue) {
    const auto where = std::ranges::find(queue, &seq, [](const SequencePtr& entry) { return entry.get(); });
    ensure(where != queue.end(), "sequence ", seq.id, " is not in the queue of its state");
    SequencePtr taken = std::move(*where);
    queue.erase(where);
    return taken;
  };
  return seq.state == SequenceState::running ? take_from(running_) : take_from(waiting_);
}

Stats Scheduler::stats() const {
  Stats stats = stats_;
  stats.num_running = std::ssize(running_);
  stats.num_waiting = std::ssize(waiting_);
  stats.num_kv_blocks = kv_.num_blocks();
  stats.num_free_blocks = kv_.num_free();
  stats.kv_cache_usage = 1 - static_cast<double>(kv_.num_free()) / static_cast<double>(kv_.num_blocks());
  return stats;
}

}  // namespace pagoda

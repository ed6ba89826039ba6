// The second half of the scheduler: what came out of a step, and how sequences end.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "engine/scheduler.h"

namespace pagoda {
namespace {

Output output_of(const Sequence& seq) {
  Output output;
  output.request_id = seq.request->id;
  output.choice = seq.choice;
  output.num_cached_tokens = seq.num_cached_tokens.value_or(0);
  return output;
}

}  // namespace

void Scheduler::commit(const StepPlan& plan, StepResult& result, std::vector<Output>& outputs) {
  ensure(result.seqs.size() == plan.seqs.size(), "a step of ", plan.seqs.size(), " sequences gave ", result.seqs.size(),
         " results");
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    Sequence& seq = *plan.seqs[i].seq;
    SequenceResult& got = result.seqs[i];
    --seq.num_in_flight;
    if (plan.seqs[i].wants_token) --seq.num_pending, seq.num_draft = 0;
    if (seq.state == SequenceState::finished) continue;
    stats_.num_numerics_errors += got.invalid_logits;
    if (!got.error.empty()) {
      kv_.discard(seq.table);  // whatever made it fail may lie in what it read
      end(seq, FinishReason::error, got.error, outputs);
      continue;
    }
    std::ranges::move(got.prompt_logprobs, std::back_inserter(seq.prompt_logprobs));
    if (got.ended) {
      end(seq, FinishReason::stop, {}, outputs);
      outputs.back().prompt_logprobs = std::exchange(seq.prompt_logprobs, {});
      continue;
    }
    if (plan.seqs[i].wants_token) append_tokens(plan.seqs[i], got, outputs);
    if (seq.pools()) pool(plan.seqs[i], got, outputs);
    if (plan.seqs[i].end < seq.num_prompt && seq.choice == 0 && seq.num_output() == 0) {
      outputs.emplace_back(output_of(seq)).num_prompt_computed = plan.seqs[i].end;
    }
  }
}

/// Adds up hidden states, one position after the other: chunks and preemptions change no bit of the sum.
void Scheduler::pool(const PlannedSeq& planned, SequenceResult& result, std::vector<Output>& outputs) {
  Sequence& seq = *planned.seq;
  const int64_t num_positions = planned.pool_end - planned.pool_begin;
  if (num_positions) {
    const size_t size = result.hidden.size() / static_cast<size_t>(num_positions);
    seq.pooled.resize(size);
    for (size_t i = 0; i < result.hidden.size(); ++i) seq.pooled[i % size] += static_cast<double>(result.hidden[i]);
  }
  if (planned.end < seq.num_prompt) return;
  if (!std::ranges::all_of(seq.pooled, [](double sum) { return std::isfinite(sum); })) {
    ++stats_.num_numerics_errors;
    return end(seq, FinishReason::error, "the model gave no usable hidden states", outputs);
  }
  const double count = seq.request->pooling == Pooling::mean ? static_cast<double>(seq.num_prompt) : 1;
  Output& output = outputs.emplace_back(output_of(seq));
  for (const double sum : seq.pooled) output.embedding.push_back(static_cast<float>(sum / count));
  output.finish = FinishReason::stop;
  finish(seq, output.finish);
}

void Scheduler::append_tokens(const PlannedSeq& planned, SequenceResult& result, std::vector<Output>& outputs) {
  Sequence& seq = *planned.seq;
  Output& output = outputs.emplace_back(output_of(seq));
  for (const int32_t token : result.tokens) {
    seq.tokens.push_back(token);
    if (seq.params().uses_penalties()) seq.counts.add_output(token);
    ++stats_.num_generation_tokens;
    trace_.token(seq);
    if (rules_.policy == SchedulingPolicy::fair) turns_.charge(seq.tenant(), 1);
    output.tokens.push_back(token);
    set_finish(seq, output);
    if (output.finish != FinishReason::none) break;
  }
  if (seq.params().logprobs) {
    result.logprobs.resize(output.tokens.size());
    output.logprobs = std::move(result.logprobs);
  }
  output.prompt_logprobs = std::exchange(seq.prompt_logprobs, {});
  if (!planned.draft.empty()) settle_draft(planned, std::ssize(output.tokens));
  if (output.finish != FinishReason::none) return finish(seq, output.finish);
  if (seq.mask) seq.mask->post(seq.tokens.back());
  if (seq.state == SequenceState::running) publish(seq);
  if (rules_.draft.max_tokens) guess(seq, output.tokens);
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
  if (seq.state == SequenceState::waiting) count_unstarted(seq, -1);
  if (rules_.policy == SchedulingPolicy::fair) turns_.left(seq.tenant());
  kv_.release(seq.table);
  swap_space_.give_back(seq.host_blocks);
  if (seq.mask) seq.mask->close();
  finished_.push_back(take(seq));
  seq.state = SequenceState::finished;
  seq.finish = reason;
  trace_.finished(seq);
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

}  // namespace pagoda

// The turns of a sequence's life: times, histograms, events.
#include "engine/trace.h"

#include <algorithm>
#include <array>

namespace pagoda {

const char* trace_kind_name(TraceKind kind) {
  constexpr std::array<const char*, kNumTraceKinds> kNames = {
      "queued", "admitted", "chunk", "first_token", "preempted", "resumed", "swapped_out", "swapped_in", "finished"};
  return kNames[static_cast<size_t>(kind)];
}

void Trace::record(const Sequence& seq, TraceKind kind, TimePoint time, int64_t begin, int64_t end) {
  if (!recording_) return;
  entries_.push_back({seq.id, seq.choice, nullptr, {kind, seq.finish, time, begin, end}});
  if (kind == TraceKind::queued) entries_.back().request = seq.request;
}

void Trace::queued(Sequence& seq) {
  seq.times.arrival = seq.request->arrival == TimePoint{} ? now_() : seq.request->arrival;
  record(seq, TraceKind::queued, seq.times.arrival, 0, seq.num_prompt);
  if (seq.choice != 0) return;
  stats_.num_choices.observe(static_cast<double>(seq.params().n));
  if (seq.params().max_tokens) stats_.max_tokens.observe(static_cast<double>(*seq.params().max_tokens));
}

void Trace::admitted(Sequence& seq) {
  const TimePoint now = now_();
  if (seq.state == SequenceState::preempted) return record(seq, TraceKind::resumed, now, 0, seq.num_computed);
  seq.times.admitted = now;
  stats_.queue_time.observe(seconds(seq.times.arrival, now));
  record(seq, TraceKind::admitted, now, 0, seq.num_computed);
}

void Trace::planned(const PlannedSeq& planned) {
  const bool is_decode = planned.end - planned.begin == 1 && planned.begin >= planned.seq->num_prompt;
  if (recording_ && !is_decode) record(*planned.seq, TraceKind::chunk, now_(), planned.begin, planned.end);
}

void Trace::token(Sequence& seq) {
  const TimePoint now = now_();
  SequenceTimes& times = seq.times;
  if (seq.num_output() == 1) {
    times.first_token = now;
    stats_.time_to_first_token.observe(seconds(times.arrival, now));
    stats_.prefill_time.observe(seconds(times.admitted, now));
    record(seq, TraceKind::first_token, now, 0, seq.num_prompt);
  } else {
    stats_.inter_token_latency.observe(seconds(times.last_token, now));
  }
  times.last_token = now;
}

void Trace::preempted(const Sequence& seq) { record(seq, TraceKind::preempted, now_(), 0, seq.num_computed); }

void Trace::swapped(const Sequence& seq, TraceKind kind, int64_t num_blocks) { record(seq, kind, now_(), 0, num_blocks); }

void Trace::finished(const Sequence& seq) {
  const TimePoint now = now_();
  const SequenceTimes& times = seq.times;
  stats_.e2e_latency.observe(seconds(times.arrival, now));
  stats_.prompt_length.observe(static_cast<double>(seq.num_prompt));
  stats_.output_length.observe(static_cast<double>(seq.num_output()));
  count_longest(seq);
  if (seq.num_output() > 0) {
    stats_.inference_time.observe(seconds(times.admitted, times.last_token));
    stats_.decode_time.observe(seconds(times.first_token, times.last_token));
  }
  if (seq.num_output() > 1) {
    const double num_intervals = static_cast<double>(seq.num_output() - 1);
    stats_.time_per_output_token.observe(seconds(times.first_token, times.last_token) / num_intervals);
  }
  record(seq, TraceKind::finished, now, 0, seq.num_output());
}

/// Observes the longest output of a request once its last choice has finished.
void Trace::count_longest(const Sequence& seq) {
  int64_t longest = seq.num_output();
  if (seq.params().n > 1) {
    FinishedChoices& finished = finished_choices_[seq.request.get()];
    longest = finished.longest = std::max(finished.longest, longest);
    if (++finished.num_choices < seq.params().n) return;
    finished_choices_.erase(seq.request.get());
  }
  stats_.longest_output.observe(static_cast<double>(longest));
}

void Trace::step(TimePoint begin, const StepPlan& plan) {
  const TimePoint now = now_();
  stats_.step_time.observe(seconds(begin, now));
  stats_.step_tokens.observe(static_cast<double>(plan.num_tokens));
  stats_.step_sequences.observe(static_cast<double>(plan.seqs.size()));
  if (recording_) steps_.push_back({begin, now, std::ssize(plan.seqs), plan.num_tokens});
}

}  // namespace pagoda

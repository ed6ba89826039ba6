// Counters, gauges and histograms of an engine. Kept by the scheduler and the engine loop; one row each, from which Python and
// /metrics are made.
#pragma once

#include <cstdint>
#include <tuple>

#include "core/fields.h"
#include "engine/histogram.h"

namespace pagoda {

struct Stats {
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_kv_blocks = 0;
  int64_t num_free_blocks = 0;
  double kv_cache_usage = 0;
  int64_t num_swapped = 0;
  int64_t num_swap_blocks = 0;
  int64_t num_free_swap_blocks = 0;
  int64_t num_preemptions = 0;
  int64_t num_preemptions_swap = 0;
  int64_t num_preemptions_recompute = 0;
  int64_t num_swapped_out_blocks = 0;
  int64_t num_swapped_in_blocks = 0;
  int64_t prefix_cache_queries = 0;
  int64_t prefix_cache_hits = 0;
  int64_t num_prompt_tokens = 0;
  int64_t num_generation_tokens = 0;
  int64_t spec_decode_num_drafts = 0;
  int64_t spec_decode_num_draft_tokens = 0;
  int64_t spec_decode_num_accepted_tokens = 0;
  int64_t num_finished_stop = 0;
  int64_t num_finished_length = 0;
  int64_t num_finished_abort = 0;
  int64_t num_finished_error = 0;
  int64_t num_numerics_errors = 0;
  double queue_age_seconds = 0;
  int64_t num_steps = 0;
  int64_t last_step_tokens = 0;
  double last_step_seconds = 0;

  Histogram<kFirstTokenBounds> time_to_first_token;
  Histogram<kTokenBounds> inter_token_latency;
  Histogram<kTokenBounds> time_per_output_token;
  Histogram<kRequestBounds> e2e_latency;
  Histogram<kRequestBounds> queue_time;
  Histogram<kRequestBounds> prefill_time;
  Histogram<kRequestBounds> decode_time;
  Histogram<kRequestBounds> inference_time;
  Histogram<kLengthBounds> prompt_length;
  Histogram<kLengthBounds> output_length;
  Histogram<kLengthBounds> longest_output;
  Histogram<kLengthBounds> max_tokens;
  Histogram<kChoiceBounds> num_choices;
  Histogram<kStepBounds> step_time;
  Histogram<kStepTokenBounds> step_tokens;
  Histogram<kBatchBounds> step_sequences;

  static constexpr auto fields();
};

/// Whether a number only grows while the engine lives, or goes up and down, or is a Histogram.
enum class StatKind : uint8_t { counter, gauge, histogram };

/// One row of Stats::fields().
template <class Value>
struct StatField {
  const char* name;
  Value Stats::* member;
  StatKind kind;
  const char* doc;
};

constexpr auto Stats::fields() {
  using S = Stats;
  const auto counter = [](const char* name, auto member, const char* doc) {
    return StatField{name, member, StatKind::counter, doc};
  };
  const auto gauge = [](const char* name, auto member, const char* doc) {
    return StatField{name, member, StatKind::gauge, doc};
  };
  const auto histogram = [](const char* name, auto member, const char* doc) {
    return StatField{name, member, StatKind::histogram, doc};
  };
  return std::tuple{
      gauge("num_running", &S::num_running, "sequences that hold KV blocks"),
      gauge("num_waiting", &S::num_waiting, "sequences that wait for their turn, preempted ones included"),
      gauge("num_kv_blocks", &S::num_kv_blocks, "blocks of the KV cache"),
      gauge("num_free_blocks", &S::num_free_blocks, "blocks that no sequence holds; cached contents in them may be evicted"),
      gauge("kv_cache_usage", &S::kv_cache_usage, "share of the blocks that sequences hold, in [0, 1]"),
      gauge("num_swapped", &S::num_swapped, "waiting sequences whose keys and values lie on the host"),
      gauge("num_swap_blocks", &S::num_swap_blocks, "blocks of the swap space on the host"),
      gauge("num_free_swap_blocks", &S::num_free_swap_blocks, "blocks of the swap space that no sequence holds"),
      counter("num_preemptions", &S::num_preemptions, "how often a sequence lost its blocks to an earlier one"),
      counter("num_preemptions_swap", &S::num_preemptions_swap, "preemptions that kept what was computed on the host"),
      counter("num_preemptions_recompute", &S::num_preemptions_recompute, "preemptions after which tokens are computed again"),
      counter("num_swapped_out_blocks", &S::num_swapped_out_blocks, "blocks copied to the host"),
      counter("num_swapped_in_blocks", &S::num_swapped_in_blocks, "blocks copied back from the host"),
      counter("prefix_cache_queries", &S::prefix_cache_queries, "prompt tokens looked up in the prefix cache"),
      counter("prefix_cache_hits", &S::prefix_cache_hits, "prompt tokens found in the prefix cache"),
      counter("num_prompt_tokens", &S::num_prompt_tokens, "prompt tokens of all sequences started"),
      counter("num_generation_tokens", &S::num_generation_tokens, "tokens generated"),
      counter("spec_decode_num_drafts", &S::spec_decode_num_drafts, "how often a step tried draft tokens for a sequence"),
      counter("spec_decode_num_draft_tokens", &S::spec_decode_num_draft_tokens, "draft tokens tried"),
      counter("spec_decode_num_accepted_tokens", &S::spec_decode_num_accepted_tokens, "draft tokens that were drawn"),
      counter("num_finished_stop", &S::num_finished_stop, "sequences ended by a stop or end-of-sequence token"),
      counter("num_finished_length", &S::num_finished_length, "sequences ended by max_tokens or the context length"),
      counter("num_finished_abort", &S::num_finished_abort, "sequences ended by the caller before they were complete"),
      counter("num_finished_error", &S::num_finished_error, "sequences ended by an error"),
      counter("num_numerics_errors", &S::num_numerics_errors, "sequences whose logits were no numbers, or left no token"),
      gauge("queue_age_seconds", &S::queue_age_seconds, "how long the longest waiting sequence has been here"),
      counter("num_steps", &S::num_steps, "steps run"),
      gauge("last_step_tokens", &S::last_step_tokens, "tokens computed in the last step"),
      gauge("last_step_seconds", &S::last_step_seconds, "duration of the last step"),
      histogram("time_to_first_token_seconds", &S::time_to_first_token, "from a request's arrival to its first token"),
      histogram("inter_token_latency_seconds", &S::inter_token_latency, "between two tokens of a sequence"),
      histogram("time_per_output_token_seconds", &S::time_per_output_token,
                "mean time of a finished sequence's tokens after the first"),
      histogram("e2e_latency_seconds", &S::e2e_latency, "from a request's arrival to the end of a sequence"),
      histogram("queue_time_seconds", &S::queue_time, "from a request's arrival to a sequence's first step"),
      histogram("prefill_time_seconds", &S::prefill_time, "from a sequence's first step to its first token"),
      histogram("decode_time_seconds", &S::decode_time, "from a sequence's first token to its last"),
      histogram("inference_time_seconds", &S::inference_time, "from a sequence's first step to its last token"),
      histogram("prompt_length", &S::prompt_length, "prompt tokens of a finished sequence"),
      histogram("output_length", &S::output_length, "tokens generated for a finished sequence"),
      histogram("longest_output", &S::longest_output, "tokens generated for the longest choice of a finished request"),
      histogram("max_tokens", &S::max_tokens, "most tokens that a request asked for"),
      histogram("num_choices", &S::num_choices, "choices that a request asked for"),
      histogram("step_time_seconds", &S::step_time, "duration of a step"),
      histogram("step_tokens", &S::step_tokens, "tokens computed in a step"),
      histogram("step_sequences", &S::step_sequences, "sequences in a step"),
  };
}

}  // namespace pagoda

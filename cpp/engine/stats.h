// Counters and gauges of an engine. Kept by the scheduler and the engine loop; one row each, from which Python and /metrics are
// made.
#pragma once

#include <cstdint>
#include <tuple>

#include "core/fields.h"

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
  int64_t num_finished_stop = 0;
  int64_t num_finished_length = 0;
  int64_t num_finished_abort = 0;
  int64_t num_finished_error = 0;
  int64_t num_steps = 0;
  int64_t last_step_tokens = 0;
  double last_step_seconds = 0;

  static constexpr auto fields();
};

/// Whether a number only grows while the engine lives, or goes up and down.
enum class StatKind : uint8_t { counter, gauge };

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
      counter("num_finished_stop", &S::num_finished_stop, "sequences ended by a stop or end-of-sequence token"),
      counter("num_finished_length", &S::num_finished_length, "sequences ended by max_tokens or the context length"),
      counter("num_finished_abort", &S::num_finished_abort, "sequences ended by the caller, who may have found a stop string"),
      counter("num_finished_error", &S::num_finished_error, "sequences ended by an error"),
      counter("num_steps", &S::num_steps, "steps run"),
      gauge("last_step_tokens", &S::last_step_tokens, "tokens computed in the last step"),
      gauge("last_step_seconds", &S::last_step_seconds, "duration of the last step"),
  };
}

}  // namespace pagoda

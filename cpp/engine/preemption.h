// How a sequence that must yield gets its keys and values back later: copied to the host and back (swap), or computed again
// (recompute). Used by the scheduler; the engine measures what each costs.
#pragma once

#include <cstdint>
#include <string>

namespace pagoda {

/// `automatic` takes what is expected to cost less. Whatever is chosen, a full swap space means recompute.
enum class PreemptionMode : uint8_t { automatic, swap, recompute };

/// Seconds; 0 = not measured.
struct PreemptionCosts {
  double swap_block = 0;       ///< one block over all layers, out and in
  double recompute_token = 0;  ///< one token of a prompt
};

/// Whether a sequence of `num_tokens` computed tokens in `num_blocks` blocks shall be swapped. What is not measured is taken to
/// cost nothing for swap and too much for recompute.
constexpr bool prefers_swap(PreemptionMode mode, const PreemptionCosts& costs, int64_t num_blocks, int64_t num_tokens) {
  if (mode != PreemptionMode::automatic) return mode == PreemptionMode::swap;
  return costs.recompute_token == 0 ||
         costs.swap_block * static_cast<double>(num_blocks) < costs.recompute_token * static_cast<double>(num_tokens);
}

/// One preemption, as it is told to whoever runs the engine.
struct PreemptionNotice {
  std::string request_id;
  int32_t choice = 0;
  bool swapped = false;
  bool swap_was_full = false;      ///< it would have been swapped
  int64_t num_tokens = 0;          ///< computed tokens that were kept (swapped) or lost
  int64_t num_blocks = 0;          ///< of the cache that it held
  int64_t free_blocks_before = 0;  ///< of the cache
  int64_t free_blocks_after = 0;
  int64_t num_running = 0;  ///< sequences that go on
  int64_t total = 0;        ///< preemptions since the start, this one counted
};

}  // namespace pagoda

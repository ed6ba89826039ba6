// One choice of one request on its way: its tokens, how many of them are computed, and the blocks that hold them.
// Owned by the scheduler; the batch builder reads it while a step is built. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "engine/drafter.h"
#include "engine/mask_exchange.h"
#include "engine/request.h"
#include "kv/kv_manager.h"
#include "sampling/sampler.h"

namespace pagoda {

enum class SequenceState : uint8_t {
  waiting,    ///< never scheduled
  running,    ///< holds blocks
  preempted,  ///< waiting again, its blocks were taken; what it had computed lies on the host or must be computed again
  finished,
};

/// When things happened first; a time is set only once it has come.
struct SequenceTimes {
  TimePoint arrival, admitted, first_token, last_token;
};

/// The n choices of a request are n sequences, which share the prompt's blocks through the prefix cache and nothing else.
struct Sequence {
  uint64_t id = 0;       ///< order of arrival; never used twice
  int64_t priority = 0;  ///< lower runs first; 0 unless the policy is priority
  uint64_t turn = 0;     ///< lower runs first; under the policy fair the order of turns, kNoTurn before it has one
  std::shared_ptr<const Request> request;
  int32_t choice = 0;
  uint64_t key = 0;  ///< Philox key of its draws

  std::vector<int32_t> tokens;  ///< known tokens: prompt and output
  int64_t num_prompt = 0;
  int64_t num_computed = 0;  ///< tokens whose keys and values are stored, or will be when the planned steps have run
  int num_pending = 0;       ///< tokens behind the known ones that planned steps will draw
  int32_t draw_row = -1;     ///< where the last pending token is drawn: the row of its step's SampleBatch
  int num_in_flight = 0;     ///< planned steps that name this sequence and are not committed
  Drafter drafter;           ///< used if tokens are drafted at all
  int64_t num_draft = 0;     ///< draft tokens behind the known ones that a planned step tries
  int64_t max_output = 0;
  BlockTable table;
  std::vector<BlockId> host_blocks;  ///< of a swapped sequence: what holds its computed tokens
  int num_preemptions = 0;
  TokenCounts counts;               ///< kept only when penalties are in use
  std::shared_ptr<TokenMask> mask;  ///< of a request with masks: what may be drawn behind the known tokens

  SequenceState state = SequenceState::waiting;
  FinishReason finish = FinishReason::none;
  std::optional<int32_t> num_cached_tokens;    ///< prompt tokens found in the prefix cache when first scheduled
  int64_t num_prompt_rows = 0;                 ///< prompt positions whose logprobs were asked of a step
  std::vector<TokenLogprobs> prompt_logprobs;  ///< collected until the first output takes them
  int64_t num_pool_positions = 0;              ///< positions whose hidden states were asked of a step, or need not be
  std::vector<double> pooled;                  ///< sum of the hidden states that came, in the order of their positions
  SequenceTimes times;

  static constexpr uint64_t kNoTurn = ~uint64_t{0};

  bool is_swapped() const { return !host_blocks.empty(); }
  int64_t num_tokens() const { return std::ssize(tokens); }
  int64_t num_output() const { return num_tokens() - num_prompt; }
  /// Known and pending tokens.
  int64_t num_expected() const { return num_tokens() + num_pending; }
  /// Whether it is the model alone that makes a draw depend on the tokens before it.
  bool draws_freely() const { return !params().uses_penalties() && request->bad_words.empty() && !mask; }
  /// Whether a step can be planned on pending tokens: no draw depends on which they are, it is known how many there will be,
  /// and the last of them is not the sequence's last for sure.
  bool can_run_ahead() const { return draws_freely() && num_draft == 0 && num_output() + num_pending < max_output; }
  const SamplingParams& params() const { return request->params; }
  const std::string& tenant() const { return request->tenant; }
  const std::string& salt() const { return request->params.cache_salt; }

  /// Prompt positions p whose logits are wanted as logprobs of token p + 1: [0, end). Only choice 0 reports them.
  int64_t prompt_rows_end() const { return choice == 0 && params().prompt_logprobs ? num_prompt - 1 : 0; }

  /// Whether the prompt's embedding is wanted: then no token is drawn.
  bool pools() const { return request->pooling != Pooling::none; }

  /// Order of service: priority, then turn, then arrival.
  bool before(const Sequence& other) const {
    return std::tie(priority, turn, id) < std::tie(other.priority, other.turn, other.id);
  }
};

}  // namespace pagoda

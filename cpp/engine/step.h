// Plain data of one step: what to compute, and what came out. Made by the scheduler, carried out by the runner, committed by
// the scheduler.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine/sequence.h"

namespace pagoda {

/// Most steps that are planned and not committed at a time.
constexpr size_t kMaxStepsInFlight = 2;

/// Tokens [begin, end) of one sequence. The sequence lives until the step is committed.
struct PlannedSeq {
  Sequence* seq = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t rows_begin = 0;  ///< prompt positions [rows_begin, rows_end) report the logprobs of the token that follows
  int64_t rows_end = 0;
  bool wants_token = false;   ///< all expected tokens are computed: position end - 1 draws the next one
  int32_t token_source = -1;  ///< >= 0: token end - 1 is not known yet; the step before draws it in this row of its SampleBatch
  int64_t pool_begin = 0;     ///< positions [pool_begin, pool_end) report their hidden states
  int64_t pool_end = 0;
  /// Tokens that may follow, computed at positions from `end` on. Each draws a token too, which counts only if all draft tokens
  /// before it were drawn. The sequence's own.
  std::span<const int32_t> draft = {};

  /// The end of all positions that are computed.
  int64_t draft_end() const { return end + std::ssize(draft); }
  int64_t num_draws() const { return wants_token ? 1 + std::ssize(draft) : 0; }
};

/// All that a step does. Blocks are copied before anything is computed: first to the host, then from there, then within the
/// cache.
struct StepPlan {
  std::vector<PlannedSeq> seqs;
  std::vector<BlockCopy> swap_out, swap_in, copies;
  int64_t num_tokens = 0;  ///< draft tokens counted
  int64_t num_draft = 0;   ///< draft tokens
  int64_t num_prompt_rows = 0;
  int64_t num_rows = 0;  ///< of logits: prompt rows and draws
  bool wants_hidden = false;

  /// Whether each sequence has one token, drafts apart, and draws the next one.
  bool only_decodes() const {
    const auto is_decode = [](const PlannedSeq& planned) { return planned.wants_token && planned.end - planned.begin == 1; };
    return std::ranges::all_of(seqs, is_decode);
  }

  void clear() {
    seqs.clear();
    swap_out.clear();
    swap_in.clear();
    copies.clear();
    num_tokens = num_draft = num_prompt_rows = num_rows = 0;
    wants_hidden = false;
  }
};

/// What a step gave one planned sequence.
struct SequenceResult {
  std::vector<int32_t> tokens;          ///< when one was wanted: the drawn token, behind draft tokens that were drawn too
  std::vector<TokenLogprobs> logprobs;  ///< of those tokens, when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  ///< of positions [rows_begin, rows_end)
  bool ended = false;                          ///< the sequence was complete before this step; nothing was drawn
  std::vector<float> hidden;                   ///< [pool_end - pool_begin, H]
  std::string error;                           ///< not empty: the sequence ends with it
  bool invalid_logits = false;                 ///< because the logits were not usable
};

struct StepResult {
  std::vector<SequenceResult> seqs;  ///< in the plan's order
};

}  // namespace pagoda

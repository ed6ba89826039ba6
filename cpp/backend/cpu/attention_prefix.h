// Which sequences of a step begin with the same KV blocks, so that one pass over these serves them all (cascade attention; Ye
// et al., FlashInfer, 2024). Called by paged_attention.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"

namespace pagoda::cpu {

constexpr int64_t kMaxPrefixTokens = 256;  ///< queries of a step that may share a pass

/// Whole partitions that two sequences or more begin with, and that all queries of theirs see.
struct SharedPrefix {
  int32_t seq;                     ///< one of the sequences
  int32_t parts;                   ///< 1 or more
  int32_t token_begin, token_end;  ///< in PrefixPlan::tokens
};

/// A sequence that begins with a shared prefix.
struct PrefixMember {
  int32_t seq;
  int32_t parts;        ///< of the prefix
  int32_t token_begin;  ///< in PrefixPlan::tokens
};

/// What a step shares: lists of the caller's, each with room for min(batch.num_tokens, kMaxPrefixTokens) elements.
struct PrefixPlan {
  SharedPrefix* prefixes;
  PrefixMember* members;  ///< in the order of the batch
  int32_t* tokens;        ///< of the members, prefix by prefix
  int32_t num_prefixes, num_members, num_tokens;
};

/// Fills `plan`. Sequences whose queries are more than half of kLeastAttentionRows rows or would be more than
/// kMaxPrefixTokens with those before, and layers with a window share nothing. Sequences are put in order, so that those that
/// share most are neighbours; neighbours are members of one prefix as long as the most that one shares with the next is at most
/// twice the least.
void plan_prefixes(const AttentionJob& job, PrefixPlan& plan);

}  // namespace pagoda::cpu

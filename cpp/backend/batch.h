// The index arrays of one step: which tokens run, where their keys and values go, which rows need logits.
// Filled by engine/batch_builder in one host buffer, uploaded once, read by every operation.
#pragma once

#include <cstdint>

namespace pagoda {

/// All pointers lie in the backend's memory and are int32. T tokens of S sequences, block tables padded to B columns, R logit
/// rows. Tokens of one sequence are adjacent and in order of position. A slot is block_id * block_size + offset.
struct Batch {
  int num_tokens = 0;      ///< T
  int num_seqs = 0;        ///< S
  int max_blocks = 0;      ///< B
  int num_logit_rows = 0;  ///< R
  int max_query_len = 0;   ///< longest query of a sequence in this step
  int max_kv_len = 0;      ///< longest context after this step
  int block_size = 0;      ///< tokens in a KV block

  const int32_t* token_ids = nullptr;    ///< [T]
  const int32_t* positions = nullptr;    ///< [T] absolute positions
  const int32_t* slots = nullptr;        ///< [T] where the token's key and value are stored
  const int32_t* query_start = nullptr;  ///< [S+1] token range of each sequence
  const int32_t* kv_len = nullptr;       ///< [S] context length of each sequence after this step (its last position + 1)
  const int32_t* block_table = nullptr;  ///< [S, B] block ids; entries past the context are undefined
  const int32_t* logit_rows = nullptr;   ///< [R] token indices whose logits are wanted, ascending
  /// Null if R is T: [R] the positions of those tokens, and [S+1] the range of each sequence's logit rows.
  const int32_t* logit_positions = nullptr;
  const int32_t* logit_start = nullptr;
  /// [T] or null: >= 0 where the token is not in token_ids yet, but drawn in this row by the step before
  /// (Backend::feed_tokens).
  const int32_t* token_sources = nullptr;

  /// The logit rows alone as queries over the same contexts, for paged_attention; R < T. Sequences may have none.
  Batch logits_only() const {
    Batch rows;
    rows.num_tokens = rows.num_logit_rows = num_logit_rows;
    rows.num_seqs = num_seqs;
    rows.max_blocks = max_blocks;
    rows.max_query_len = max_query_len < num_logit_rows ? max_query_len : num_logit_rows;
    rows.max_kv_len = max_kv_len;
    rows.block_size = block_size;
    rows.positions = logit_positions;
    rows.query_start = logit_start;
    rows.kv_len = kv_len;
    rows.block_table = block_table;
    return rows;
  }
};

}  // namespace pagoda

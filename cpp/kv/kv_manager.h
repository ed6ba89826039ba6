// Block tables over a block pool: which blocks hold the keys and values of a run of tokens, and which are shared with others.
// Owns the pool. Works on tables and tokens only and never sees a sequence. Called by the scheduler, on the engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kv/block_pool.h"

namespace pagoda {

/// The blocks of one sequence: block i holds its tokens [i * block_size, (i + 1) * block_size). Holds one reference to each.
struct BlockTable {
  std::vector<BlockId> blocks;
  int num_published =
      0;            ///< leading blocks that are full and immutable: in the content index (if there is one), or twins of such
  Content content;  ///< of the first num_published blocks
};

/// The prefix cache: a full block is findable by its tokens and all tokens before it. A hit is decided by comparing tokens, so
/// it is exact.
class KvManager {
 public:
  /// `prefix_cache` false: match_prefix finds nothing, and publish only marks blocks as immutable. Slots are int32, so
  /// num_blocks * block_size must fit; throws InvalidArgument otherwise.
  KvManager(int64_t num_blocks, int block_size, bool prefix_cache, BlockPoolHooks hooks = {});

  /// A table of the longest cached beginning of `tokens`, whole blocks and at most `max_tokens` tokens, each block retained.
  BlockTable match_prefix(std::span<const int32_t> tokens, std::string_view salt, int64_t max_tokens);
  /// A table of the first `num_blocks` blocks of another, which must be immutable. For where there is no prefix cache: it keeps
  /// no identity of their content.
  BlockTable share(const BlockTable& table, int64_t num_blocks);
  /// Extends the table to hold `num_tokens` tokens. False (and nothing changed) when there are not enough free blocks.
  [[nodiscard]] bool reserve(BlockTable& table, int64_t num_tokens);
  /// Gives back the blocks behind those that hold `num_tokens` tokens; none of them may be published.
  void trim(BlockTable& table, int64_t num_tokens);
  /// Makes findable every full block among the first `num_computed` tokens. `tokens` are the table's tokens from position 0.
  void publish(BlockTable& table, std::span<const int32_t> tokens, int64_t num_computed, std::string_view salt);
  /// Gives all blocks back and empties the table. The last block goes first, so that the end of a cached text is evicted before
  /// its start.
  void release(BlockTable& table);
  /// Like release, and makes the blocks unfindable first: what they hold is not to be trusted.
  void discard(BlockTable& table);

  int64_t num_blocks() const { return pool_.num_blocks(); }
  int64_t num_free() const { return pool_.num_free(); }
  int block_size() const { return pool_.block_size(); }
  /// Tokens that fit in all blocks together.
  int64_t capacity() const { return num_blocks() * block_size(); }
  bool prefix_cache() const { return prefix_cache_; }
  int64_t blocks_for(int64_t num_tokens) const { return (num_tokens + block_size() - 1) / block_size(); }

  /// Makes all blocks unfindable. Tables keep theirs.
  void forget() { pool_.forget(); }

  /// Checks the pool, that reference counts equal the tables' uses, and that only published blocks are in two tables. `tables`
  /// must be all live tables. Throws InternalError.
  void check_integrity(std::span<const BlockTable* const> tables) const;

 private:
  BlockPool pool_;
  bool prefix_cache_;
};

}  // namespace pagoda

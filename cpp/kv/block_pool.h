// The blocks of the KV cache as numbers: who holds which, which is free, and which full block has which content.
// Owns the reference counts, the free list and the content index; knows neither sequences nor memory. Used by KvManager only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/hash.h"

namespace pagoda {

using BlockId = int32_t;

/// Identity of all tokens from position 0 to the end of some full block, under a salt. A pool uses an id once, so equal ids
/// mean equal tokens and salt; id 0 is the empty beginning. The hash only serves to find.
struct Content {
  uint64_t id = 0;
  Hash128 hash;
};

/// What tests replace: the hash (a constant one must be harmless) and whether an allocation fails although a block is free.
struct BlockPoolHooks {
  Hash128 (*hash)(Hash128 parent, std::span<const int32_t> tokens) = hash_tokens;
  std::function<bool()> fail_allocation;
};

/// Invariants (check_integrity):
/// 1. A block is in the free list exactly once if its reference count is 0, and not at all otherwise.
/// 2. The content index holds exactly the published blocks, each content once. A published block stays findable while it is
/// free,
///    until allocate() hands it out again.
/// 3. The free list runs from "reuse first" to "reuse last": blocks freed without content (latest first, so a server with
/// little to do
///    stays on few pages of memory), blocks never used (lowest first), blocks freed with content (least recently used first).
/// All operations are O(1) in the number of blocks and allocate no memory, but for a salt. One thread.
class BlockPool {
 public:
  /// `num_blocks` >= 1 free blocks without content, `block_size` >= 1 tokens each.
  BlockPool(int64_t num_blocks, int block_size, BlockPoolHooks hooks = {});

  /// A block with one reference and no content, or nullopt when all blocks are referenced.
  std::optional<BlockId> allocate();
  /// Adds a reference. The block may be free (a cache hit).
  void retain(BlockId block);
  /// Drops a reference; with the last one the block becomes free.
  void release(BlockId block);

  /// Makes a referenced block findable as `tokens` (block_size of them) after `parent`. Returns the identity of that content.
  /// If another block has it already, that one stays the findable one. `salt` separates worlds that must not share. The block
  /// must not be published.
  Content publish(BlockId block, Content parent, std::span<const int32_t> tokens, std::string_view salt);
  /// The block whose content is exactly `tokens` after `parent` under `salt`. It is not retained.
  std::optional<BlockId> find(Content parent, std::span<const int32_t> tokens, std::string_view salt) const;
  /// Takes a block out of the content index; no-op when it is not in it.
  void unpublish(BlockId block);
  /// Takes all blocks out of the content index. O(blocks).
  void forget();
  /// Identity of a published block's content; id 0 when it is not published.
  const Content& content(BlockId block) const { return blocks_[static_cast<size_t>(block)].content; }

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()) - 1; }
  int64_t num_free() const { return num_free_; }
  int64_t num_published() const { return num_published_; }
  int block_size() const { return block_size_; }
  int32_t ref_count(BlockId block) const { return blocks_[static_cast<size_t>(block)].ref_count; }

  /// Checks the invariants in O(blocks). Throws InternalError naming the first broken one.
  void check_integrity() const;

 private:
  static constexpr BlockId kNone = -1;

  struct Block {
    int32_t ref_count = 0;
    BlockId prev = kNone, next = kNone;  ///< neighbours in the free list, kNone when not in it
    BlockId bucket_next = kNone;         ///< next in the bucket of the content index
    Content content;                     ///< id 0 = not published
    uint64_t parent_id = 0;
    std::string salt;  ///< of a published block without parent; the others are salted through their parents
  };

  Block& at(BlockId block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& at(BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  void check_id(BlockId block) const;
  BlockId sentinel() const { return static_cast<BlockId>(blocks_.size() - 1); }
  void insert_after(BlockId where, BlockId block);
  void remove_from_free_list(BlockId block);
  std::span<int32_t> tokens_of(BlockId block);
  std::span<const int32_t> tokens_of(BlockId block) const;
  Hash128 hash_of(Content parent, std::span<const int32_t> tokens, std::string_view salt) const;
  BlockId find_hashed(Hash128 hash, Content parent, std::span<const int32_t> tokens, std::string_view salt) const;
  size_t bucket_of(Hash128 hash) const { return hash.lo & (buckets_.size() - 1); }
  void check_free_list() const;
  void check_index() const;

  int block_size_;
  BlockPoolHooks hooks_;
  std::vector<Block> blocks_;     // [num_blocks + 1], the last one is the free list's sentinel
  std::vector<int32_t> tokens_;   // [num_blocks, block_size], of published blocks
  std::vector<BlockId> buckets_;  // heads of the index's chains; a power of two
  int64_t num_free_ = 0;
  int64_t num_published_ = 0;
  uint64_t last_content_id_ = 0;
};

}  // namespace pagoda

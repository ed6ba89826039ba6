// Blocks on the host that hold the keys and values of preempted sequences, as numbers. Owns which are free; the memory is
// KvCache's. Used by the scheduler, on the engine thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kv/block_pool.h"

namespace pagoda {

/// Invariant: a block is either free or was taken once and not given back (check_integrity).
class SwapSpace {
 public:
  /// 0 blocks: nothing can be taken.
  explicit SwapSpace(int64_t num_blocks);

  /// `count` blocks, or nullopt (and nothing changed) when so many are not free.
  std::optional<std::vector<BlockId>> take(int64_t count);
  /// Makes blocks free that were taken, and empties the list.
  void give_back(std::vector<BlockId>& blocks);

  int64_t num_blocks() const { return num_blocks_; }
  int64_t num_free() const { return std::ssize(free_); }

  /// `taken` are the lists of all who hold blocks. Throws InternalError.
  void check_integrity(std::span<const std::vector<BlockId>* const> taken) const;

 private:
  int64_t num_blocks_;
  std::vector<BlockId> free_;  // the last goes first: few pages of memory are in use when little is swapped
};

}  // namespace pagoda

// A stack of free blocks.
#include "kv/swap_space.h"

#include <limits>

#include "core/check.h"

namespace pagoda {

SwapSpace::SwapSpace(int64_t num_blocks) : num_blocks_(num_blocks) {
  require(num_blocks >= 0 && num_blocks <= std::numeric_limits<BlockId>::max(), "the swap space must have 0 to ",
          std::numeric_limits<BlockId>::max(), " blocks, got ", num_blocks);
  free_.reserve(static_cast<size_t>(num_blocks));
  for (int64_t block = num_blocks; block-- > 0;) free_.push_back(static_cast<BlockId>(block));
}

std::optional<std::vector<BlockId>> SwapSpace::take(int64_t count) {
  if (count > num_free()) return std::nullopt;
  std::vector<BlockId> blocks(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - static_cast<size_t>(count));
  return blocks;
}

void SwapSpace::give_back(std::vector<BlockId>& blocks) {
  ensure(num_free() + std::ssize(blocks) <= num_blocks_, "more swapped blocks were given back than taken");
  free_.insert(free_.end(), blocks.rbegin(), blocks.rend());
  blocks.clear();
}

void SwapSpace::check_integrity(std::span<const std::vector<BlockId>* const> taken) const {
  std::vector<int> uses(static_cast<size_t>(num_blocks_));
  for (const BlockId block : free_) ++uses.at(static_cast<size_t>(block));
  for (const std::vector<BlockId>* blocks : taken) {
    for (const BlockId block : *blocks) ++uses.at(static_cast<size_t>(block));
  }
  for (size_t block = 0; block < uses.size(); ++block) {
    ensure(uses[block] == 1, "swapped block ", block, " is free or held ", uses[block], " times");
  }
}

}  // namespace pagoda

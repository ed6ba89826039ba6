// Block tables: matching, growing, publishing and giving back.
#include "kv/kv_manager.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.h"

namespace pagoda {

namespace {

/// The number of blocks, checked before the pool allocates anything for them.
int64_t checked_num_blocks(int64_t num_blocks, int block_size) {
  constexpr int64_t kMaxSlots = std::numeric_limits<int32_t>::max();
  require(block_size < 1 || num_blocks <= kMaxSlots / block_size, "the KV cache may hold at most ", kMaxSlots, " tokens, got ",
          num_blocks, " blocks of ", block_size, " tokens");
  return num_blocks;
}

}  // namespace

KvManager::KvManager(int64_t num_blocks, int block_size, bool prefix_cache, BlockPoolHooks hooks)
    : pool_(checked_num_blocks(num_blocks, block_size), block_size, std::move(hooks)), prefix_cache_(prefix_cache) {}

BlockTable KvManager::match_prefix(std::span<const int32_t> tokens, std::string_view salt, int64_t max_tokens) {
  BlockTable table;
  if (!prefix_cache_) return table;
  const auto size = static_cast<size_t>(block_size());
  const size_t limit = std::min(tokens.size(), static_cast<size_t>(std::max<int64_t>(max_tokens, 0)));
  for (size_t begin = 0; begin + size <= limit; begin += size) {
    const auto block = pool_.find(table.content, tokens.subspan(begin, size), salt);
    if (!block) break;
    pool_.retain(*block);
    table.blocks.push_back(*block);
    table.content = pool_.content(*block);
  }
  table.num_published = static_cast<int>(table.blocks.size());
  return table;
}

BlockTable KvManager::share(const BlockTable& table, int64_t num_blocks) {
  ensure(!prefix_cache_ && num_blocks <= table.num_published, "block ", num_blocks - 1, " of a table cannot be shared");
  BlockTable shared;
  shared.blocks.assign(table.blocks.begin(), table.blocks.begin() + num_blocks);
  for (const BlockId block : shared.blocks) pool_.retain(block);
  shared.num_published = static_cast<int>(num_blocks);
  return shared;
}

bool KvManager::reserve(BlockTable& table, int64_t num_tokens) {
  const size_t had = table.blocks.size();
  const int64_t needed = blocks_for(num_tokens) - static_cast<int64_t>(had);
  if (needed > num_free()) return false;
  for (int64_t i = 0; i < needed; ++i) {
    const auto block = pool_.allocate();
    if (!block) {
      for (; table.blocks.size() > had; table.blocks.pop_back()) pool_.release(table.blocks.back());
      return false;
    }
    table.blocks.push_back(*block);
  }
  return true;
}

void KvManager::trim(BlockTable& table, int64_t num_tokens) {
  const int64_t num_kept = blocks_for(num_tokens);
  ensure(num_kept >= table.num_published, "a table was cut to ", num_kept, " blocks, of which ", table.num_published,
         " are published");
  for (; std::ssize(table.blocks) > num_kept; table.blocks.pop_back()) pool_.release(table.blocks.back());
}

void KvManager::publish(BlockTable& table, std::span<const int32_t> tokens, int64_t num_computed, std::string_view salt) {
  const auto size = static_cast<size_t>(block_size());
  const auto num_full = static_cast<size_t>(num_computed) / size;
  ensure(num_full <= table.blocks.size() && num_full * size <= tokens.size(), num_computed, " tokens were published of ",
         tokens.size(), " in ", table.blocks.size(), " blocks");
  if (!prefix_cache_) {
    table.num_published = std::max(table.num_published, static_cast<int>(num_full));
    return;
  }
  for (auto i = static_cast<size_t>(table.num_published); i < num_full; ++i) {
    table.content = pool_.publish(table.blocks[i], table.content, tokens.subspan(i * size, size), salt);
    ++table.num_published;
  }
}

void KvManager::release(BlockTable& table) {
  for (; !table.blocks.empty(); table.blocks.pop_back()) pool_.release(table.blocks.back());
  table.num_published = 0;
  table.content = {};
}

void KvManager::discard(BlockTable& table) {
  for (const BlockId block : table.blocks) pool_.unpublish(block);
  release(table);
}

void KvManager::check_integrity(std::span<const BlockTable* const> tables) const {
  pool_.check_integrity();
  struct Use {
    int32_t count = 0;
    int32_t mutable_count = 0;  // uses by tables that may still write to it
  };
  std::vector<Use> uses(static_cast<size_t>(num_blocks()));
  for (const BlockTable* table : tables) {
    for (size_t i = 0; i < table->blocks.size(); ++i) {
      Use& use = uses.at(static_cast<size_t>(table->blocks[i]));
      ++use.count;
      if (i >= static_cast<size_t>(table->num_published)) ++use.mutable_count;
    }
  }
  for (BlockId block = 0; block < num_blocks(); ++block) {
    const Use& use = uses[static_cast<size_t>(block)];
    ensure(use.count == pool_.ref_count(block), "block ", block, " has ", pool_.ref_count(block), " references but is in ",
           use.count, " tables");
    ensure(use.mutable_count == 0 || use.count == 1, "block ", block, " is not full and yet in ", use.count, " tables");
  }
}

}  // namespace pagoda

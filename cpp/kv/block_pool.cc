// The block pool: an intrusive circular free list around a sentinel, and a content index with intrusive chains.
#include "kv/block_pool.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "core/check.h"

namespace pagoda {

BlockPool::BlockPool(int64_t num_blocks, int block_size, BlockPoolHooks hooks)
    : block_size_(block_size), hooks_(std::move(hooks)) {
  require(num_blocks >= 1 && num_blocks < std::numeric_limits<BlockId>::max(), "the KV cache must have 1 to ",
          std::numeric_limits<BlockId>::max() - 1, " blocks, got ", num_blocks);
  require(block_size >= 1, "block_size must be >= 1, got ", block_size);
  blocks_.resize(static_cast<size_t>(num_blocks) + 1);
  tokens_.resize(static_cast<size_t>(num_blocks) * static_cast<size_t>(block_size));
  buckets_.assign(std::bit_ceil(static_cast<size_t>(num_blocks)), kNone);
  at(sentinel()).prev = at(sentinel()).next = sentinel();
  for (BlockId block = 0; block < sentinel(); ++block) insert_after(at(sentinel()).prev, block);
}

std::optional<BlockId> BlockPool::allocate() {
  if (num_free_ == 0 || (hooks_.fail_allocation && hooks_.fail_allocation())) return std::nullopt;
  const BlockId block = at(sentinel()).next;
  unpublish(block);
  remove_from_free_list(block);
  at(block).ref_count = 1;
  return block;
}

void BlockPool::retain(BlockId block) {
  check_id(block);
  if (at(block).ref_count++ == 0) remove_from_free_list(block);
}

void BlockPool::release(BlockId block) {
  check_id(block);
  ensure(at(block).ref_count > 0, "block ", block, " was released more often than retained");
  if (--at(block).ref_count > 0) return;
  insert_after(at(block).content.id ? at(sentinel()).prev : sentinel(), block);
}

Content BlockPool::publish(BlockId block, Content parent, std::span<const int32_t> tokens, std::string_view salt) {
  check_id(block);
  ensure(at(block).ref_count > 0, "block ", block, " was published while free");
  ensure(at(block).content.id == 0, "block ", block, " was published twice");
  ensure(std::ssize(tokens) == block_size_, "a published block holds ", block_size_, " tokens, got ", tokens.size());
  const Hash128 hash = hash_of(parent, tokens, salt);
  const BlockId twin = find_hashed(hash, parent, tokens, salt);
  if (twin != kNone) return at(twin).content;

  Block& entry = at(block);
  entry.content = {++last_content_id_, hash};
  entry.parent_id = parent.id;
  if (parent.id == 0) entry.salt = salt;
  std::ranges::copy(tokens, tokens_of(block).begin());
  BlockId& head = buckets_[bucket_of(hash)];
  entry.bucket_next = std::exchange(head, block);
  ++num_published_;
  return entry.content;
}

std::optional<BlockId> BlockPool::find(Content parent, std::span<const int32_t> tokens, std::string_view salt) const {
  const BlockId block = find_hashed(hash_of(parent, tokens, salt), parent, tokens, salt);
  return block == kNone ? std::nullopt : std::optional(block);
}

void BlockPool::unpublish(BlockId block) {
  check_id(block);
  Block& entry = at(block);
  if (entry.content.id == 0) return;
  BlockId* link = &buckets_[bucket_of(entry.content.hash)];
  while (*link != block) link = &at(*link).bucket_next;
  *link = entry.bucket_next;
  entry.bucket_next = kNone;
  entry.content = {};
  entry.parent_id = 0;
  entry.salt.clear();
  --num_published_;
  if (entry.ref_count == 0) {
    remove_from_free_list(block);
    insert_after(sentinel(), block);
  }
}

void BlockPool::forget() {
  for (BlockId block = 0; block < sentinel(); ++block) unpublish(block);
}

void BlockPool::check_id(BlockId block) const { ensure(0 <= block && block < sentinel(), "no block ", block); }

void BlockPool::insert_after(BlockId where, BlockId block) {
  const BlockId next = at(where).next;
  at(block).prev = where;
  at(block).next = next;
  at(where).next = at(next).prev = block;
  ++num_free_;
}

void BlockPool::remove_from_free_list(BlockId block) {
  Block& entry = at(block);
  at(entry.prev).next = entry.next;
  at(entry.next).prev = entry.prev;
  entry.prev = entry.next = kNone;
  --num_free_;
}

std::span<int32_t> BlockPool::tokens_of(BlockId block) {
  return std::span(tokens_).subspan(static_cast<size_t>(block) * static_cast<size_t>(block_size_),
                                    static_cast<size_t>(block_size_));
}

std::span<const int32_t> BlockPool::tokens_of(BlockId block) const {
  return std::span(tokens_).subspan(static_cast<size_t>(block) * static_cast<size_t>(block_size_),
                                    static_cast<size_t>(block_size_));
}

Hash128 BlockPool::hash_of(Content parent, std::span<const int32_t> tokens, std::string_view salt) const {
  return hooks_.hash(parent.id ? parent.hash : hash_bytes(salt.data(), salt.size(), {}), tokens);
}

BlockId BlockPool::find_hashed(Hash128 hash, Content parent, std::span<const int32_t> tokens, std::string_view salt) const {
  for (BlockId block = buckets_[bucket_of(hash)]; block != kNone; block = at(block).bucket_next) {
    const Block& entry = at(block);
    if (entry.content.hash == hash && entry.parent_id == parent.id && (parent.id != 0 || entry.salt == salt) &&
        std::ranges::equal(tokens_of(block), tokens)) {
      return block;
    }
  }
  return kNone;
}

void BlockPool::check_integrity() const {
  check_free_list();
  check_index();
}

void BlockPool::check_free_list() const {
  int64_t num_listed = 0;
  BlockId previous = sentinel();
  for (BlockId block = at(sentinel()).next; block != sentinel(); block = at(block).next) {
    check_id(block);
    ensure(++num_listed <= num_blocks(), "the free list has a cycle");
    ensure(at(block).prev == previous, "block ", block, " has a broken back link in the free list");
    ensure(at(block).ref_count == 0, "block ", block, " is free but has ", at(block).ref_count, " references");
    previous = block;
  }
  ensure(at(sentinel()).prev == previous, "the free list's end is broken");
  ensure(num_listed == num_free_, "the free list has ", num_listed, " blocks, the count says ", num_free_);
  int64_t num_unreferenced = 0;
  for (BlockId block = 0; block < sentinel(); ++block) {
    ensure(at(block).ref_count >= 0, "block ", block, " has ", at(block).ref_count, " references");
    ensure((at(block).next != kNone) == (at(block).ref_count == 0), "block ", block,
           " is neither free nor referenced, or both");
    num_unreferenced += at(block).ref_count == 0;
  }
  ensure(num_unreferenced == num_free_, num_unreferenced, " blocks have no reference, but ", num_free_, " are free");
}

void BlockPool::check_index() const {
  int64_t num_indexed = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    for (BlockId block = buckets_[bucket]; block != kNone; block = at(block).bucket_next) {
      const Block& entry = at(block);
      ensure(++num_indexed <= num_blocks(), "the content index has a cycle");
      ensure(entry.content.id != 0, "block ", block, " is in the content index without content");
      ensure(entry.content.id <= last_content_id_ && entry.parent_id < entry.content.id, "block ", block,
             " is its own ancestor");
      ensure(bucket_of(entry.content.hash) == bucket, "block ", block, " is in the wrong bucket");
      ensure(find_hashed(entry.content.hash, {entry.parent_id, {}}, tokens_of(block), entry.salt) == block,
             "the content of block ", block, " is in the index twice");
    }
  }
  const auto published = std::ranges::count_if(blocks_, [](const Block& block) { return block.content.id != 0; });
  ensure(num_indexed == published && published == num_published_, published, " blocks have content, ", num_indexed,
         " are in the index, the count says ", num_published_);
}

}  // namespace pagoda

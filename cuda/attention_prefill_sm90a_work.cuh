// Which queries of which sequence a block of Hopper's prefill kernel takes next. The queries of a (sequence, KV head) are cut
// into items; blocks stay and are dealt the items of all sequences from long contexts to short ones, there and back (block 0
// gets the longest of the first round and the shortest of the second). Built by one warp of every block for itself, from
// query_start and kv_len, so that a launch knows nothing of the batch. Used by attention_prefill_sm90a.cuh.
#pragma once

#include "cuda/attention_common.cuh"

namespace pagoda::cuda {

/// Consecutive queries of one sequence, and a KV head.
struct HopperItem {
  int seq = 0;
  int kv_head = 0;
  int first_query = 0;  ///< of the sequence's
  int num_queries = 0;  ///< of the sequence
  int kv_len = 0;       ///< of the sequence
};

/// All lanes of the warp hold one and call it together. Sequences are read 32 at a time, one by each lane; those are dealt
/// level by level, a level being the items whose contexts lie in one of up to kLevels equal ranges of length.
class HopperWork {
 public:
  static constexpr int kLevels = 16;

  __device__ __forceinline__ HopperWork(const AttentionParams& p, int queries_of_item)
      : p_(p), queries_of_item_(queries_of_item) {}

  /// False if there is nothing left for this block. Reads index arrays only.
  __device__ __forceinline__ bool next(HopperItem& item) {
    int turn = my_turn();
    while (turn >= end_) {
      if (!advance()) return false;
    }
    ++round_;
    turn -= begin_;
    const int tile = turn / p_.kv_heads;  // of the level
    const unsigned reached = __ballot_sync(~0u, before_ <= tile);
    const int lane = 31 - __clz(static_cast<int>(reached & __ballot_sync(~0u, own_ > 0)));
    const int last = items_up_to(longest_of_level(level_)) - 1;
    item.seq = first_seq_ + lane;
    item.kv_head = turn % p_.kv_heads;
    item.first_query = (__shfl_sync(~0u, last + before_, lane) - tile) * queries_of_item_;
    item.num_queries = __shfl_sync(~0u, num_queries_, lane);
    item.kv_len = __shfl_sync(~0u, kv_len_, lane);
    return true;
  }

 private:
  __device__ __forceinline__ int my_turn() const {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    return round_ * blocks + (round_ & 1 ? blocks - 1 - block : block);
  }

  /// Contexts of the level are in (longest_of_level(level + 1), longest_of_level(level)].
  __device__ __forceinline__ int longest_of_level(int level) const {
    return static_cast<int>(int64_t{longest_} * (num_levels_ - level) / num_levels_);
  }

  /// The number of the lane's sequence's items in which no query has a context above `context` keys; these are its first ones.
  __device__ __forceinline__ int items_up_to(int context) const {
    const int seen = context - (kv_len_ - num_queries_);  // queries with such a context
    if (seen >= num_queries_) return (num_queries_ + queries_of_item_ - 1) / queries_of_item_;
    return max(seen, 0) / queries_of_item_;
  }

  /// On to the next level; false after the last.
  __device__ __forceinline__ bool advance() {
    if (++level_ >= num_levels_) {
      first_seq_ += 32;
      if (first_seq_ >= p_.num_seqs) return false;
      survey();
    }
    own_ = items_up_to(longest_of_level(level_)) - items_up_to(longest_of_level(level_ + 1));
    int sum = own_;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(~0u, sum, offset);
      if (static_cast<int>(threadIdx.x) % 32 >= offset) sum += other;
    }
    before_ = sum - own_;
    begin_ = end_;
    end_ += __shfl_sync(~0u, sum, 31) * p_.kv_heads;
    return true;
  }

  /// Reads the next sequences; those with a single query are another kernel's. One level if each block gets but one item.
  __device__ __forceinline__ void survey() {
    const int seq = first_seq_ + static_cast<int>(threadIdx.x) % 32;
    num_queries_ = kv_len_ = 0;
    if (seq < p_.num_seqs) {
      num_queries_ = p_.query_start[seq + 1] - p_.query_start[seq];
      kv_len_ = p_.kv_len[seq];
    }
    if (num_queries_ <= 1) num_queries_ = kv_len_ = 0;
    const int items = (num_queries_ + queries_of_item_ - 1) / queries_of_item_ * p_.kv_heads;
    int sum = items, longest = max(kv_len_, 1);
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) {
      sum += __shfl_xor_sync(~0u, sum, offset);
      longest = max(longest, __shfl_xor_sync(~0u, longest, offset));
    }
    longest_ = longest;
    level_ = 0;
    num_levels_ = __popc(__ballot_sync(~0u, items > 0)) > 1 && sum > static_cast<int>(gridDim.x) ? min(kLevels, longest) : 1;
  }

  const AttentionParams& p_;
  int queries_of_item_;
  int first_seq_ = -32;  ///< of those that the lanes have
  int level_ = 0, num_levels_ = 0;
  int longest_ = 1;                   ///< context of those sequences
  int begin_ = 0, end_ = 0;           ///< turns that belong to this level, counted from the start of the kernel
  int round_ = 0;                     ///< of dealing
  int num_queries_ = 0, kv_len_ = 0;  ///< of the lane's sequence
  int before_ = 0, own_ = 0;          ///< items of the level: of sequences before the lane's, of the lane's
};

}  // namespace pagoda::cuda

// What decode attention has to do in a batch: which leaves of which sequences are computed on their own, which sequences are
// taken whole, which have leaves to combine. Every block builds the list for itself from query_start, kv_len and the room for
// partials, so that a launch knows nothing of the batch. Only sums over ranges of sequences are kept: any number of sequences
// fits. Used by attention_decode.cuh and attention_decode.cu.
#pragma once

#include "cuda/attention_common.cuh"

namespace pagoda::cuda {

/// One item of a list.
struct WorkItem {
  int seq = 0;
  int first_leaf = 0;  ///< of those that the sequence's query sees, or of this item
  int num_leaves = 0;
  int slot = -1;  ///< where partials hold the first leaf's state; -1: nowhere
};

/// All threads of the block, full warps, hold one and build it together.
class WorkList {
 public:
  enum List : int {
    kWhole,   ///< sequences of more than one leaf for whose states partials have no room
    kLeaves,  ///< leaves of the other sequences, each an item
    kSplit,   ///< sequences whose leaves leave their states in partials
    kNumLists,
  };
  static constexpr int kRanges = 128;  ///< of sequences, at most
  static constexpr int kSharedBytes = ((kNumLists + 1) * (kRanges + 1) + kNumLists * kRanges / 32) * 4;

  /// Reads index arrays only. Has barriers.
  __device__ WorkList(const AttentionParams& p, unsigned char* shared) : p_(p), before_(reinterpret_cast<int*>(shared)) {
    const int range = static_cast<int>(threadIdx.x), begin = range * range_size();
    const int end = range < num_ranges() ? min(begin + range_size(), p.num_seqs) : 0;
    int slots[1] = {0};
    for (int seq = begin; seq < end; ++seq) slots[0] += leaves_of(seq).slots();
    sum_ranges(slots, kSlots);
    int items[kNumLists] = {};
    int slot = slots[0];
    for (int seq = begin; seq < end; ++seq) {
      const Leaves leaves = leaves_of(seq);
#pragma unroll
      for (int list = 0; list < kNumLists; ++list) items[list] += leaves.items(list, has_room(slot, leaves));
      slot += leaves.slots();
    }
    sum_ranges(items, 0);
  }

  __device__ int size(List list) const { return before(list)[kRanges]; }

  /// Item `index` of a list, in order of sequences and leaves. Called by whole warps with the same arguments in all lanes.
  __device__ WorkItem at(List list, int index) const {
    int range = 0;  // the last with no more than `index` items before it
    for (int end = num_ranges(); end - range > 1;) {
      const int middle = (range + end) / 2;
      if (before(list)[middle] <= index) {
        range = middle;
      } else {
        end = middle;
      }
    }
    int slots = before(kSlots)[range], items = before(list)[range];
    const int begin = range * range_size(), end = min(begin + range_size(), p_.num_seqs),
              lane = static_cast<int>(threadIdx.x) % 32;
    for (int first = begin;; first += 32) {
      const int seq = first + lane;
      const Leaves leaves = seq < end ? leaves_of(seq) : Leaves{};
      const int slot = slots + sum_before(leaves.slots());
      const bool room = has_room(slot, leaves);
      const int own = leaves.items(list, room), item = items + sum_before(own);
      const unsigned found = __ballot_sync(~0u, item <= index && index < item + own);
      if (found || first + 32 >= end) {
        const int from = found ? __ffs(static_cast<int>(found)) - 1 : 0;
        const int within = list == kLeaves ? index - __shfl_sync(~0u, item, from) : 0;
        const int first_slot = __shfl_sync(~0u, room ? slot : -1, from);
        WorkItem result{first + from, __shfl_sync(~0u, leaves.first, from) + within, __shfl_sync(~0u, leaves.count, from),
                        first_slot < 0 ? -1 : first_slot + within};
        if (list == kLeaves) result.num_leaves = 1;
        return result;
      }
      slots = __shfl_sync(~0u, slot + leaves.slots(), 31);
      items = __shfl_sync(~0u, item + own, 31);
    }
  }

 private:
  static constexpr int kSlots = kNumLists;  ///< behind the lists: states in partials

  /// What the only query of a sequence sees; none: the sequence has more queries.
  struct Leaves {
    int first = 0, count = 0;

    __device__ int slots() const { return count > 1 ? count : 0; }
    __device__ int items(int list, bool room) const {
      if (list == kWhole) return count > 1 && !room;
      if (list == kLeaves) return count == 1 || room ? count : 0;
      return room;
    }
  };

  __device__ Leaves leaves_of(int seq) const {
    if (p_.query_start[seq + 1] - p_.query_start[seq] != 1) return {};
    const int position = p_.kv_len[seq] - 1, first_key = p_.window ? max(position - p_.window + 1, 0) : 0;
    return {first_key / kAttentionLeaf, position / kAttentionLeaf - first_key / kAttentionLeaf + 1};
  }
  /// Slots go to sequences in order, whether or not those before have found room.
  __device__ bool has_room(int slot, const Leaves& leaves) const {
    return leaves.count > 1 && slot + leaves.count <= p_.num_partials;
  }

  // Computed where they are used, which is seldom, to be in no register meanwhile.
  __device__ static int num_ranges() { return min(static_cast<int>(blockDim.x), kRanges); }
  __device__ int range_size() const { return (p_.num_seqs + num_ranges() - 1) / num_ranges(); }
  __device__ int* before(int list) const { return before_ + list * (kRanges + 1); }

  /// The sum over the warp's lanes before this one.
  __device__ static int sum_before(int value) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int sum = value;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += other;
    }
    return sum - value;
  }

  /// Values of this thread's range become the sums over all ranges before it, which go to before(list) and the next lists too.
  template <int kCount>
  __device__ void sum_ranges(int (&values)[kCount], int list) {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
    int* sums = before_ + (kNumLists + 1) * (kRanges + 1);
    int own[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      own[i] = values[i];
      values[i] = sum_before(own[i]);
      if (thread % 32 == 31 && thread < kRanges) sums[i * (kRanges / 32) + warp] = values[i] + own[i];
    }
    __syncthreads();
    if (thread < num_ranges()) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        for (int other = 0; other < warp; ++other) values[i] += sums[i * (kRanges / 32) + other];
        before(list + i)[thread + 1] = values[i] + own[i];
        if (thread == num_ranges() - 1) before(list + i)[kRanges] = values[i] + own[i];
        if (thread == 0) before(list + i)[0] = 0;
      }
    }
    __syncthreads();
  }

  const AttentionParams& p_;
  int* before_;  ///< [kNumLists + 1][kRanges + 1] items and slots before each range, all of them at the end; then scratch
};

}  // namespace pagoda::cuda

// Which rows of which sequence a block of the prefill kernel takes next. The queries of a (sequence, KV head) are cut into
// tiles of rows; blocks stay and are dealt the tiles of all sequences from long contexts to short ones, there and back (block 0
// gets the longest of the first round and the shortest of the second). Built by every block for itself from query_start and
// kv_len, so that a launch depends on the device and the heads alone. Used by attention_prefill.cuh.
#pragma once

#include "cuda/attention_common.cuh"
#include "cuda/reduce.cuh"

namespace pagoda::cuda {

/// Rows of one sequence and KV head: row r is head r % group of the group and query r / group of the sequence.
struct PrefillItem {
  int seq = 0;
  int kv_head = 0;
  int part = 0;  ///< of the values' columns
  int first_row = 0;
};

/// All threads of the block hold one and call it together. Sequences are read kListed at a time; those that are listed are
/// dealt level by level, a level being the tiles whose contexts lie in one of up to kLevels equal ranges of length.
template <int kWarps, int kRows, int kParts>
class PrefillWork {
 public:
  static constexpr int kListed = kWarps < 2 ? 32 : 64;
  static constexpr int kLevels = 16;
  /// Of shared memory, 16-byte aligned.
  static constexpr int kSharedBytes = 32 + (kListed + 1 + kListed / 32 + kWarps) * 4;

  __device__ PrefillWork(const AttentionParams& p, unsigned char* shared)
      : p_(p), state_(reinterpret_cast<State*>(shared)), tiles_before_(reinterpret_cast<int*>(shared + 32)) {
    static_assert(sizeof(State) <= 32);
    if (threadIdx.x == 0) *state_ = State{-kListed, 0, 0, 0, 0, 0, 0};
    __syncthreads();
  }

  /// False if there is nothing left for this block. Reads nothing but the batch's index arrays; has barriers before and after
  /// its reads of shared memory.
  __device__ bool next(PrefillItem& item) {
    State state = *state_;
    int turn = my_turn(state.round);
    while (turn >= state.end) {
      if (!advance(state)) return false;
    }
    ++state.round;
    turn -= state.begin;
    item.part = turn % kParts;
    item.kv_head = turn / kParts % p_.kv_heads;
    const int tile = turn / (kParts * p_.kv_heads);  // of the level
    int listed = 0;                                  // the last sequence with tiles_before_ <= tile
#pragma unroll
    for (int step = kListed / 2; step; step >>= 1) {
      if (tiles_before_[listed + step] <= tile) listed += step;
    }
    item.seq = state.first_seq + listed;
    const int end = tiles_up_to(item.seq, longest_of_level(state, state.level));
    item.first_row = (end - 1 - (tile - tiles_before_[listed])) * kRows;
    keep(state);
    return true;
  }

 private:
  /// The same in all threads; kept in shared memory between the calls.
  struct State {
    int first_seq;  ///< of those listed
    int level;      ///< being dealt, of num_levels; 0 holds the longest contexts
    int num_levels;
    int longest;     ///< context of a listed sequence
    int begin, end;  ///< turns that belong to this level, counted from the start of the kernel
    int round;       ///< of dealing
  };

  /// Less than kListed are of interest; nothing that follows from it stays in registers while the block works.
  __device__ static int own_thread() { return static_cast<int>(gpu::opaque(threadIdx.x) & 1023); }
  __device__ static int my_turn(int round) {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    return round * blocks + (round & 1 ? blocks - 1 - block : block);
  }

  __device__ void keep(const State& state) {
    __syncthreads();
    if (threadIdx.x == 0) *state_ = state;
    __syncthreads();
  }

  /// Contexts of the level are in (longest_of_level(level + 1), longest_of_level(level)].
  __device__ static int longest_of_level(const State& state, int level) {
    return static_cast<int>(int64_t{state.longest} * (state.num_levels - level) / state.num_levels);
  }

  /// The number of the sequence's tiles in which no query has a context above `context` keys; these are its first ones.
  __device__ int tiles_up_to(int seq, int context) const {
    const int queries = p_.query_start[seq + 1] - p_.query_start[seq];
    if (queries <= 1) return 0;
    const int seen = context - (p_.kv_len[seq] - queries);  // queries with such a context
    const int64_t rows = int64_t{min(max(seen, 0), queries)} * p_.group();
    return static_cast<int>(seen >= queries ? (rows + kRows - 1) / kRows : rows / kRows);
  }

  /// On to the next level with its list; false after the last.
  __device__ bool advance(State& state) {
    state.begin = state.end;
    if (++state.level >= state.num_levels) {
      state.first_seq += kListed;
      if (state.first_seq >= p_.num_seqs) return false;
      state.level = 0;
      survey(state);
    }
    const int thread = own_thread(), seq = state.first_seq + thread;
    int tiles = 0;
    if (thread < kListed && seq < p_.num_seqs) {
      tiles =
          tiles_up_to(seq, longest_of_level(state, state.level)) - tiles_up_to(seq, longest_of_level(state, state.level + 1));
    }
    state.end = state.begin + list(tiles) * p_.kv_heads * kParts;
    return true;
  }

  /// The longest context of the listed sequences, and into how many levels their tiles go: one if each block has but one.
  __device__ void survey(State& state) {
    const int thread = own_thread(), seq = state.first_seq + thread;
    int tiles = 0, context = 1;
    if (thread < kListed && seq < p_.num_seqs) {
      context = p_.kv_len[seq];
      tiles = tiles_up_to(seq, context);
      if (tiles == 0) context = 1;
    }
    int* scratch = tiles_before_ + kListed + 1 + kListed / 32;
    const bool many = __syncthreads_count(tiles > 0) > 1;
    state.longest = block_max<kWarps>(context, scratch);
    const int total = block_sum<kWarps>(tiles, scratch) * p_.kv_heads * kParts;
    state.num_levels = many && total > static_cast<int>(gridDim.x) ? min(kLevels, state.longest) : 1;
  }

  /// tiles_before_[i] = tiles of the listed sequences before the i-th; returns their sum.
  __device__ int list(int tiles) {
    const int thread = own_thread(), lane = thread % 32;
    int* sums = tiles_before_ + kListed + 1;
    int sum = tiles;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += other;
    }
    __syncthreads();  // nobody reads the old list any more
    if (thread < kListed && lane == 31) sums[thread / 32] = sum;
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll
    for (int warp = 0; warp < kListed / 32; ++warp) {
      before += warp < thread / 32 ? sums[warp] : 0;
      total += sums[warp];
    }
    if (thread < kListed) tiles_before_[thread + 1] = before + sum;
    if (thread == 0) tiles_before_[0] = 0;
    __syncthreads();
    return total;
  }

  const AttentionParams& p_;
  State* state_;
  int* tiles_before_;  ///< [kListed + 1], then [kListed / 32] sums of warps, then scratch
};

}  // namespace pagoda::cuda

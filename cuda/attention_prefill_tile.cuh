// What a block of the prefill kernel keeps in shared memory and how it gets there: its rows of q, and the stream of key and
// value tiles from the paged cache. Rows of 16-bit elements in 16-byte chunks, swizzled so that neither copies nor ldmatrix
// meet a bank conflict. One tile of keys and one of values have room: a tile's values are copied while its scores are computed,
// the next tile's keys while the values are used. Used by attention_prefill.cuh.
#pragma once

#include <type_traits>

#include "cuda/attention_common.cuh"
#include "cuda/attention_prefill_work.cuh"

namespace pagoda::cuda {

/// One instantiation of the kernel. A warp takes kRowTiles x 16 rows; heads of other sizes are filled up to kHeadDim with
/// zeros. An item of work takes kColumns of the values' kHeadDim columns; with fewer than all, the scores are computed again
/// for others.
template <class KvType, int kDim, int kColumnsOfItem, int kRowTilesOfWarp, int kNumWarps, int kMaxBlocks>
struct PrefillShape {
  using Kv = KvType;
  static constexpr int kHeadDim = kDim;
  static constexpr int kColumns = kColumnsOfItem;
  static constexpr int kParts = kHeadDim / kColumns;
  static constexpr int kRowTiles = kRowTilesOfWarp;
  static constexpr int kWarps = kNumWarps;
  static constexpr int kBlocks = kMaxBlocks;  ///< of a multiprocessor, if its shared memory suffices
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = 16 * kRowTiles * kWarps;
  static constexpr bool kDequantises = sizeof(Kv) == 1;
  static constexpr int kKvPerChunk = 16 / sizeof(Kv);  ///< elements in 16 bytes of the cache
  /// Whether the sums of earlier leaves have room in registers, beside the current one's.
  static constexpr bool kTotalInRegisters = kRowTiles * kColumns <= 128;

  using Work = PrefillWork<kWarps, kRows, kParts>;
  static constexpr int kKeysAt = 0;
  static constexpr int kValuesAt = kAttentionTile * 2 * kHeadDim;
  static constexpr int kQueriesAt = kValuesAt + kAttentionTile * 2 * kColumns;
  static constexpr int kTotalAt = kQueriesAt + kRows * 2 * kHeadDim;  // float4 [kRowTiles * kColumns / 8][kThreads]
  static constexpr int kScalesAt = kTotalAt + (kTotalInRegisters ? 0 : kRows * kColumns * 4);  // float2 [kThreads]
  static constexpr int kPlacesAt = kScalesAt + (kTotalInRegisters ? 0 : kThreads * 8);         // uint32_t [2][kAttentionTile]
  static constexpr int kItemAt = kPlacesAt + 2 * kAttentionTile * 4;                           // PrefillTile
  static constexpr int kSpansAt = kItemAt + 48;                                                // int2 [kWarps]
  static constexpr int kWorkAt = kSpansAt + kWarps * 8;
  static constexpr int kSharedBytes = kWorkAt + Work::kSharedBytes;

  static_assert(kHeadDim % 32 == 0 && kColumns % 32 == 0 && kHeadDim % kColumns == 0 && (kThreads & (kThreads - 1)) == 0);
};

// Threads compute what follows from their number where they use it: registers are for sums.
__device__ __forceinline__ int own_lane() { return static_cast<int>(gpu::opaque(threadIdx.x) % 32); }
/// The first of the warp's rows.
template <class S>
__device__ __forceinline__ int own_first_row() {
  return static_cast<int>(gpu::opaque(threadIdx.x) / 32) * (16 * S::kRowTiles);
}

/// Where chunk `chunk` of row `row` lies in a tile of rows of kHeadDim 16-bit elements. Any 8 rows from a multiple of 8 have
/// the same chunk in 8 different groups of 4 banks.
template <int kHeadDim>
__device__ __forceinline__ int tile_swizzle(int row) {
  return kHeadDim % 64 == 0 ? row & 7 : row >> 1 & 3;  // rows of 64 * odd bytes start at every second group by turns
}
template <int kHeadDim>
__device__ __forceinline__ int tile_offset(int row, int chunk) {
  return row * (2 * kHeadDim) + ((chunk ^ tile_swizzle<kHeadDim>(row)) << 4);
}

/// How a block's threads share the chunks of a tile of keys, kChunks to a key: thread t has chunk `index` t, t + kThreads, ...
template <int kChunks, int kThreads>
struct TileSplit {
  static constexpr int kAll = kAttentionTile * kChunks;
  static constexpr int kEach = (kAll + kThreads - 1) / kThreads;
  static constexpr bool kWholeKeys = kThreads % kChunks == 0;  ///< each turn goes to as many keys

  __device__ __forceinline__ static int index(int thread, int turn) { return thread + turn * kThreads; }
  __device__ __forceinline__ static bool exists(int thread, int turn) {
    return kAll % kThreads == 0 ? turn < kEach : index(thread, turn) < kAll;
  }
  __device__ __forceinline__ static int key(int thread, int turn) {
    return kWholeKeys ? thread / kChunks + turn * (kThreads / kChunks) : index(thread, turn) / kChunks;
  }
  __device__ __forceinline__ static int chunk(int thread, int turn) {
    return (kWholeKeys ? thread : index(thread, turn)) % kChunks;
  }
};

/// A lane's row of the 16x16 matrices that ldmatrix_x4 takes from columns 16 * i of a tile.
template <int kHeadDim>
struct LaneRow {
  int row_offset, chunk_offset;

  /// `row` below 16, `half` the lane's 8 columns of the 16.
  __device__ __forceinline__ LaneRow(int row, int half)
      : row_offset(row * (2 * kHeadDim)), chunk_offset((half ^ tile_swizzle<kHeadDim>(row)) << 4) {}
  /// For a left operand, or a transposed right one.
  __device__ __forceinline__ static LaneRow by_columns() {
    const int lane = own_lane();
    return LaneRow(lane % 16, lane / 16);
  }
  /// For a right operand.
  __device__ __forceinline__ static LaneRow by_rows() {
    const int lane = own_lane();
    return LaneRow(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }
  /// With `i` a constant, a few registers serve all: the swizzle changes its lowest bits alone.
  __device__ __forceinline__ int at(int i) const {
    constexpr int kSwizzled = kHeadDim % 64 == 0 ? 3 : 1;
    const int low = (i & kSwizzled) << 5, high = (i & ~kSwizzled) << 5;
    if constexpr ((kHeadDim & (kHeadDim - 1)) == 0) return ((row_offset | chunk_offset) ^ low) + high;  // no bit in common
    return row_offset + (chunk_offset ^ low) + high;
  }
};

/// One item of work as the block sees it. Lies in shared memory, to be read where it is used.
struct PrefillTile {
  int seq, kv_head, first_row;
  int first_column;        ///< of the values
  int num_rows;            ///< of the sequence and KV head that lie at or behind first_row
  int first_query;         ///< token of the sequence's first query in the batch
  int first_position;      ///< of that query
  int key_begin, key_end;  ///< what some row sees

  __device__ PrefillTile(const AttentionParams& p, const PrefillItem& item, int max_rows, int columns)
      : seq(item.seq), kv_head(item.kv_head), first_row(item.first_row), first_column(item.part * columns) {
    first_query = p.query_start[seq];
    const int queries = p.query_start[seq + 1] - first_query;
    num_rows = min(queries * p.group() - first_row, max_rows);
    first_position = p.kv_len[seq] - queries;
    key_end = position(p, num_rows - 1) + 1;
    key_begin = p.window ? max(position(p, 0) - p.window + 1, 0) : 0;
  }
  __device__ __forceinline__ int first_tile() const { return key_begin / kAttentionTile; }
  __device__ __forceinline__ int last_tile() const { return (key_end - 1) / kAttentionTile; }
  /// The query's number in the sequence; rows past the end count as the last.
  __device__ __forceinline__ int query(const AttentionParams& p, int row) const {
    return (first_row + min(row, num_rows - 1)) / p.group();
  }
  __device__ __forceinline__ int position(const AttentionParams& p, int row) const { return first_position + query(p, row); }
  /// First and last of `rows` rows; {0, -1} if none of them exists.
  __device__ __forceinline__ int2 positions(const AttentionParams& p, int row, int rows) const {
    return row < num_rows ? make_int2(position(p, row), position(p, row + rows - 1)) : make_int2(0, -1);
  }
  __device__ __forceinline__ int head(const AttentionParams& p, int row) const {
    return kv_head * p.group() + (first_row + row) % p.group();
  }
};

/// The mma's element from the cache's.
__device__ __forceinline__ uint16_t mma_bits(Bf16 value) { return value.bits; }
__device__ __forceinline__ uint16_t mma_bits(F16 value) { return value.bits; }
__device__ __forceinline__ uint16_t mma_bits(E4m3 value) { return e4m3_to_f16_bits(value.bits); }

/// Eight e4m3 to f16.
__device__ __forceinline__ uint4 e4m3x8_to_f16(uint32_t low, uint32_t high) {
  return make_uint4(gpu::unpack_e4m3(static_cast<uint16_t>(low)), gpu::unpack_e4m3(static_cast<uint16_t>(low >> 16)),
                    gpu::unpack_e4m3(static_cast<uint16_t>(high)), gpu::unpack_e4m3(static_cast<uint16_t>(high >> 16)));
}

/// Two elements of q to the type that they are multiplied in.
template <class Kv>
__device__ __forceinline__ uint32_t mma_queries(uint32_t pair) {
  if constexpr (std::is_same_v<Kv, Bf16>) return pair;
  const float2 values = unpack_bf16(pair);
  return gpu::pack_f16(values.x, values.y);
}

/// The block's rows of q, zeros past their number and past the head.
template <class S>
__device__ __forceinline__ void load_queries(const AttentionParams& p, const PrefillTile& tile, unsigned char* to) {
  const bool vectors = p.head_dim % 8 == 0 && p.q_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.q) % 16 == 0;
#pragma unroll 2
  for (int i = static_cast<int>(gpu::opaque(threadIdx.x)); i < S::kRows * S::kHeadDim / 8; i += S::kThreads) {
    const int row = i / (S::kHeadDim / 8), chunk = i % (S::kHeadDim / 8),
              size = row < tile.num_rows ? p.head_dim - 8 * chunk : 0;
    const Bf16* from = p.q + (tile.first_query + tile.query(p, row)) * p.q_stride + tile.head(p, row) * p.head_dim + 8 * chunk;
    uint32_t words[4] = {0, 0, 0, 0};
    if (size > 0 && vectors) {
      const uint4 loaded = *reinterpret_cast<const uint4*>(from);
      words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (j < size) words[j / 2] |= static_cast<uint32_t>(from[j].bits) << 16 * (j % 2);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) words[j] = mma_queries<typename S::Kv>(words[j]);
    *reinterpret_cast<uint4*>(to + tile_offset<S::kHeadDim>(row, chunk)) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

/// Tiles of keys and values of one item, in order: start(first); then for each tile await_keys, await_values. Each of the three
/// is called by all threads; a tile's keys may be read until the await_values, its values until the next await_keys.
template <class S>
class KvStream {
 public:
  __device__ __forceinline__ KvStream(const AttentionParams& p, const PrefillTile& tile, unsigned char* shared)
      : p_(p), tile_(tile), shared_(shared) {}

  __device__ __forceinline__ void start(int first) {
    place(first, find_block(first));
    __syncthreads();
    copy_keys(first);
  }
  __device__ __forceinline__ void await_keys(int tile) {
    arrive<S::kHeadDim>(S::kKeysAt);
    copy_values(tile);
    next_block_ = find_block(tile + 1);
  }
  __device__ __forceinline__ void await_values(int tile) {
    place(tile + 1, next_block_);
    arrive<S::kColumns>(S::kValuesAt);
    if ((tile + 1) * kAttentionTile < tile_.key_end) copy_keys(tile + 1);
  }

 private:
  using Kv = typename S::Kv;
  static constexpr uint32_t kNowhere = 0x80000000u;  ///< a bit of its own: without it row 0

  __device__ __forceinline__ bool in_range(int key) const { return key >= tile_.key_begin && key < tile_.key_end; }
  /// The block of this thread's key of the tile, if it has one.
  __device__ __forceinline__ int find_block(int tile) const {
    const int thread = own_thread(), key = tile * kAttentionTile + thread;
    if (thread >= kAttentionTile || !in_range(key)) return 0;
    return p_.block_table[int64_t{tile_.seq} * p_.max_blocks + (key >> p_.block_shift)];
  }
  /// Writes down, for the block's copies, which rows of head_dim elements of the cache hold the tile's keys. (A layer has less
  /// than 2^31.)
  __device__ __forceinline__ void place(int tile, int block) {
    const int thread = own_thread(), key = tile * kAttentionTile + thread;
    if (thread < kAttentionTile) {
      const uint32_t first = static_cast<uint32_t>(2 * block * p_.kv_heads + tile_.kv_head) << p_.block_shift;
      places(tile)[thread] = in_range(key) ? first + (key & ((1 << p_.block_shift) - 1)) : kNowhere;
    }
  }
  __device__ __forceinline__ uint32_t* places(int tile) const {
    return reinterpret_cast<uint32_t*>(shared_ + S::kPlacesAt) + (tile & 1) * kAttentionTile;
  }
  __device__ __forceinline__ void copy_keys(int tile) { copy<S::kHeadDim>(0, 0, places(tile), S::kKeysAt); }
  __device__ __forceinline__ void copy_values(int tile) {
    copy<S::kColumns>(p_.kv_heads << p_.block_shift, S::kParts == 1 ? 0 : tile_.first_column, places(tile), S::kValuesAt);
  }

  __device__ __forceinline__ static int own_thread() { return static_cast<int>(gpu::opaque(threadIdx.x) & (S::kThreads - 1)); }

  /// Whether rows of the cache consist of whole, aligned chunks.
  __device__ __forceinline__ bool vectors() const { return p_.head_dim % S::kKvPerChunk == 0; }

  /// Asks for a tile of kWidth columns from first_column, of rows `behind` those in `rows`. Elements of 8 bits stay so until
  /// they arrive.
  template <int kWidth>
  __device__ __forceinline__ void copy(int behind, int first_column, const uint32_t* rows, int to) {
    if (!vectors()) {
      copy_elements<kWidth>(behind, first_column, rows, to);
      return;
    }
    using Split = TileSplit<kWidth / S::kKvPerChunk, S::kThreads>;
    const int thread = own_thread();
    constexpr int kAhead = 4;  // rows looked up together
#pragma unroll
    for (int first = 0; first < Split::kEach; first += kAhead) {
      uint32_t row[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (Split::exists(thread, first + j)) row[j] = rows[Split::key(thread, first + j)];
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (!Split::exists(thread, first + j)) break;
        const int key = Split::key(thread, first + j), chunk = Split::chunk(thread, first + j);
        const int column = first_column + chunk * S::kKvPerChunk;
        const int at = S::kDequantises ? Split::index(thread, first + j) * 16 : tile_offset<kWidth>(key, chunk);
        gpu::cp_async16(shared_ + to + at, cached(row[j], behind) + column, row[j] < kNowhere && column < p_.head_dim);
      }
    }
    gpu::cp_async_commit();
  }

  /// The same for heads of odd sizes, element by element and at once.
  template <int kWidth>
  __device__ __forceinline__ void copy_elements(int behind, int first_column, const uint32_t* rows, int to) {
#pragma unroll 1
    for (int i = own_thread(); i < kAttentionTile * kWidth; i += S::kThreads) {
      const int key = i / kWidth, column = i % kWidth;
      const bool valid = rows[key] < kNowhere && first_column + column < p_.head_dim;
      const uint16_t bits = valid ? mma_bits(cached(rows[key], behind)[first_column + column]) : uint16_t{0};
      *reinterpret_cast<uint16_t*>(shared_ + to + tile_offset<kWidth>(key, column / 8) + 2 * (column % 8)) = bits;
    }
  }
  __device__ __forceinline__ const Kv* cached(uint32_t row, int behind) const {
    return static_cast<const Kv*>(p_.kv) + uint64_t{(row & ~kNowhere) + behind} * static_cast<uint32_t>(p_.head_dim);
  }

  /// Meets the block's other threads when what was asked for is there.
  template <int kWidth>
  __device__ __forceinline__ void arrive(int at) {
    gpu::cp_async_wait<0>();
    if constexpr (S::kDequantises) {
      if (vectors()) {
        dequantise<kWidth>(at);
        return;
      }
    }
    __syncthreads();
  }

  /// Spreads the tile's bytes to f16 in place: each thread takes out what it has copied itself before anybody writes.
  template <int kWidth>
  __device__ __forceinline__ void dequantise(int at) {
    using Split = TileSplit<kWidth / 16, S::kThreads>;
    const int thread = own_thread();
    uint4 bytes[Split::kEach];
#pragma unroll
    for (int j = 0; j < Split::kEach; ++j) {
      if (Split::exists(thread, j)) bytes[j] = *reinterpret_cast<const uint4*>(shared_ + at + 16 * Split::index(thread, j));
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < Split::kEach; ++j) {
      if (!Split::exists(thread, j)) break;
      const int key = Split::key(thread, j), chunk = 2 * Split::chunk(thread, j);
      *reinterpret_cast<uint4*>(shared_ + at + tile_offset<kWidth>(key, chunk)) = e4m3x8_to_f16(bytes[j].x, bytes[j].y);
      *reinterpret_cast<uint4*>(shared_ + at + tile_offset<kWidth>(key, chunk + 1)) = e4m3x8_to_f16(bytes[j].z, bytes[j].w);
    }
    __syncthreads();
  }

  const AttentionParams& p_;
  const PrefillTile& tile_;
  unsigned char* shared_;
  int next_block_ = 0;
};

}  // namespace pagoda::cuda

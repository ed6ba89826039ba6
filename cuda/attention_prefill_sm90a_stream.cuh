// What a block of Hopper's prefill kernel keeps in shared memory, and the one warp that fills it: rows of q and tiles of keys
// and values, copied as boxes by the TMA, each stage with a barrier that tells when it is full and one that tells when it is
// empty. Used by attention_prefill_sm90a.cuh.
#pragma once

#include "cuda/attention_common.cuh"
#include "cuda/attention_prefill_sm90a_work.cuh"
#include "cuda/gpu90.h"

namespace pagoda::cuda {

/// One instantiation: two warpgroups multiply, each 64 rows of q. Smaller heads are filled up to kDim with zeros. Heads above
/// 128 are too large for a warpgroup's registers: both take the same rows, compute the same scores, and half of the values'
/// columns.
template <int kDim, int kNumStages>
struct HopperShape {
  static constexpr int kHeadDim = kDim;
  static constexpr int kStages = kNumStages;  ///< of keys, and of values
  static constexpr int kParts = kHeadDim > 128 ? 2 : 1;
  static constexpr int kColumns = kHeadDim / kParts;
  static constexpr int kRows = 128 / kParts;
  static constexpr int kPanels = kHeadDim / 64;  ///< of 64 columns, 128 bytes: what lies in one row of shared memory
  static constexpr int kThreads = 384;           ///< a warpgroup of which a warp copies, two that multiply
  static constexpr int kReaders = 8;             ///< warps that read a stage
  static constexpr int kQueryPanelBytes = kRows * 128;
  static constexpr int kTilePanelBytes = kAttentionTile * 128;
  static constexpr int kQueryBytes = kPanels * kQueryPanelBytes;
  static constexpr int kTileBytes = kPanels * kTilePanelBytes;
  // Shared memory: q [2], keys [kStages], values [kStages], each [panel][row][64], swizzled; HopperTile [2]; barriers.
  static constexpr int kKeysAt = 2 * kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kTileBytes;
  static constexpr int kTilesAt = kValuesAt + kStages * kTileBytes;
  static constexpr int kBarriersAt = kTilesAt + 2 * 64;
  static constexpr int kSharedBytes = kBarriersAt + (2 + 2 * kStages) * 2 * 8;
  static_assert(kSharedBytes <= 227 * 1024);
};

/// An item as the warpgroups see it. No queries: there are no more items.
struct HopperTile {
  int num_rows;        ///< row r is head r % group of the KV head and query r / group of the item
  int first_token;     ///< of the batch
  int first_position;  ///< of that token
  int first_head;
  int begin, end;              ///< tiles of keys
  int valid_begin, valid_end;  ///< keys that are copied and exist; values outside are not numbers
};

/// A place in a ring of stages. Parity is that of the phase in which the stage becomes full.
template <int kStages>
struct Ring {
  int stage = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// The barriers of a ring.
template <int kStages>
struct RingBarriers {
  uint64_t* full;   ///< [kStages]
  uint64_t* empty;  ///< [kStages]

  __device__ __forceinline__ void init(unsigned readers) const {
    for (int stage = 0; stage < kStages; ++stage) {
      gpu::mbarrier_init(full + stage, 1);
      gpu::mbarrier_init(empty + stage, readers);
    }
  }
  __device__ __forceinline__ void wait_full(const Ring<kStages>& ring) const {
    gpu::mbarrier_wait(full + ring.stage, ring.parity);
  }
  __device__ __forceinline__ void wait_empty(const Ring<kStages>& ring) const {
    gpu::mbarrier_wait(empty + ring.stage, ring.parity ^ 1);
  }
  /// This warp has read the stage; then on to the next.
  __device__ __forceinline__ void release(Ring<kStages>& ring) const {
    if (threadIdx.x % 32 == 0) gpu::mbarrier_arrive(empty + ring.stage);
    ring.advance();
  }
};

template <class S>
struct HopperBarriers {
  RingBarriers<2> queries;
  RingBarriers<S::kStages> keys, values;

  __device__ __forceinline__ explicit HopperBarriers(unsigned char* shared) {
    auto* at = reinterpret_cast<uint64_t*>(shared + S::kBarriersAt);
    queries = {at, at + 2};
    keys = {at + 4, at + 4 + S::kStages};
    values = {keys.empty + S::kStages, keys.empty + 2 * S::kStages};
  }
  __device__ __forceinline__ void init() const {
    queries.init(S::kReaders);
    keys.init(S::kReaders);
    values.init(S::kReaders);
    gpu::mbarrier_fence_init();
  }
};

/// The maps of the kernel's arrays.
struct HopperMaps {
  const CUtensorMap* q;   ///< [T, num_heads, head_dim] in boxes of the item's queries, a group's heads, 64 columns
  const CUtensorMap* kv;  ///< [blocks, (k, v) * kv_heads * block_size, head_dim] in boxes of a block (up to a tile), 64 columns
};

/// The warp that copies.
template <class S>
class HopperStream {
 public:
  __device__ __forceinline__ HopperStream(const AttentionParams& p, const HopperMaps& maps, unsigned char* shared)
      : p_(p), maps_(maps), shared_(shared), barriers_(shared) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    box_rows_ = min(1 << p.block_shift, kAttentionTile);
    first_row_ = lane / S::kPanels * box_rows_;
    panel_ = lane % S::kPanels;
  }

  /// Copies everything for all items of this block.
  __device__ __forceinline__ void run() {
    if (threadIdx.x % 32 == 0) {
      gpu::prefetch_map(maps_.q);
      gpu::prefetch_map(maps_.kv);
    }
    const int queries_of_item = S::kRows / p_.group();
    HopperWork work(p_, queries_of_item);
    HopperItem item;
    bool more = work.next(item);
    gpu::wait_for_grid();
    while (more) {
      const HopperTile tile = describe(item, queries_of_item);
      copy_queries(tile, queries_of_item);
      copy_tiles(item, tile);
      more = work.next(item);
    }
    barriers_.queries.wait_empty(queries_);
    if (threadIdx.x % 32 == 0) {
      tile_at(queries_.stage)->num_rows = 0;
      gpu::mbarrier_arrive(barriers_.queries.full + queries_.stage);
    }
  }

 private:
  /// What a lane copies of a tile.
  struct Box {
    int head;   ///< of keys; those of values follow
    int block;  ///< negative: nothing
    int tile;
  };

  __device__ __forceinline__ HopperTile* tile_at(int stage) const {
    return reinterpret_cast<HopperTile*>(shared_ + S::kTilesAt) + stage;
  }

  __device__ __forceinline__ HopperTile describe(const HopperItem& item, int queries_of_item) const {
    HopperTile tile;
    const int queries = min(item.num_queries - item.first_query, queries_of_item);
    tile.num_rows = queries * p_.group();
    tile.first_token = p_.query_start[item.seq] + item.first_query;
    tile.first_position = item.kv_len - item.num_queries + item.first_query;
    tile.first_head = item.kv_head * p_.group();
    const int key_begin = p_.window ? max(tile.first_position - p_.window + 1, 0) : 0;
    tile.begin = key_begin / kAttentionTile;
    tile.end = (tile.first_position + queries - 1) / kAttentionTile + 1;
    tile.valid_begin = key_begin & -box_rows_;
    tile.valid_end = item.kv_len;
    return tile;
  }

  /// The item's rows of q; what it says of itself comes along.
  __device__ __forceinline__ void copy_queries(const HopperTile& tile, int queries_of_item) {
    barriers_.queries.wait_empty(queries_);
    if (threadIdx.x % 32 == 0) {
      *tile_at(queries_.stage) = tile;
      uint64_t* full = barriers_.queries.full + queries_.stage;
      gpu::mbarrier_expect(full, static_cast<unsigned>(S::kPanels * 128 * queries_of_item * p_.group()));
      unsigned char* to = shared_ + queries_.stage * S::kQueryBytes;
      for (int panel = 0; panel < S::kPanels; ++panel) {
        gpu::tma_load(to + panel * S::kQueryPanelBytes, maps_.q, full, {64 * panel, tile.first_head, tile.first_token});
      }
    }
    queries_.advance();
  }

  /// Keys run one tile ahead of values, as they are read.
  __device__ __forceinline__ void copy_tiles(const HopperItem& item, const HopperTile& tile) {
    const int keys_head = item.kv_head, values_head = p_.kv_heads + item.kv_head;
    int before = -1, block = find_block(item, tile, tile.begin);
    for (int j = tile.begin; j <= tile.end; ++j) {
      const int next = find_block(item, tile, j + 1);
      if (j < tile.end) copy_tile({keys_head, block, j}, barriers_.keys, keys_, S::kKeysAt);
      if (j > tile.begin) copy_tile({values_head, before, j - 1}, barriers_.values, values_, S::kValuesAt);
      before = block;
      block = next;
    }
  }

  /// Where the lane's rows of a tile lie; negative: nowhere.
  __device__ __forceinline__ int find_block(const HopperItem& item, const HopperTile& tile, int j) const {
    const int key = j * kAttentionTile + first_row_;
    if (first_row_ >= kAttentionTile || j >= tile.end || key < tile.valid_begin || key >= tile.valid_end) return -1;
    return p_.block_table[int64_t{item.seq} * p_.max_blocks + (key >> p_.block_shift)];
  }

  /// Each lane copies the box of its rows and panel, if it has any.
  __device__ __forceinline__ void copy_tile(const Box& box, const RingBarriers<S::kStages>& barriers, Ring<S::kStages>& ring,
                                            int at) {
    const auto boxes = static_cast<unsigned>(__popc(__ballot_sync(~0u, box.block >= 0)));
    barriers.wait_empty(ring);
    uint64_t* full = barriers.full + ring.stage;
    if (threadIdx.x % 32 == 0) gpu::mbarrier_expect(full, boxes * static_cast<unsigned>(box_rows_) * 128);
    __syncwarp();
    if (box.block >= 0) {
      const int row = (box.tile * kAttentionTile + first_row_) & ((1 << p_.block_shift) - 1);
      gpu::tma_load(shared_ + at + ring.stage * S::kTileBytes + panel_ * S::kTilePanelBytes + first_row_ * 128, maps_.kv, full,
                    {64 * panel_, (box.head << p_.block_shift) + row, box.block});
    }
    ring.advance();
  }

  const AttentionParams& p_;
  const HopperMaps maps_;
  unsigned char* shared_;
  HopperBarriers<S> barriers_;
  Ring<2> queries_;
  Ring<S::kStages> keys_, values_;
  int box_rows_, first_row_, panel_;  ///< of the lane's box, in every tile
};

}  // namespace pagoda::cuda

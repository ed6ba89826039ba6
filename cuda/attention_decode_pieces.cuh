// How keys and values come to a warp of the decode kernel: in pieces of 32 keys' keys or values, through a ring in the warp's
// own part of shared memory that cp.async fills several pieces ahead. Rows of a piece lie as in the cache, in 16-byte chunks
// swizzled so that neither copies nor fragments meet a bank conflict; 8-bit elements become f16 when fragments are made. Used
// by attention_decode.cuh.
#pragma once

#include <type_traits>

#include "cuda/attention_common.cuh"

namespace pagoda::cuda {

/// One instantiation of the kernel: heads of other sizes are filled up to kDim with zeros.
template <class KvType, int kDim>
struct DecodeShape {
  using Kv = KvType;
  static constexpr int kHeadDim = kDim;
  static constexpr int kMaxHeadTiles = kDim > 128 ? 1 : 2;  ///< of 8 heads, for a warp; more have no room in registers
  static constexpr int kMaxWarps = 8;
  static constexpr bool kIsByte = sizeof(Kv) == 1;

  static constexpr int kPerChunk = 16 / static_cast<int>(sizeof(Kv));  ///< elements
  static constexpr int kChunks = kHeadDim / kPerChunk;                 ///< of a row
  static constexpr int kRowBytes = 16 * kChunks;
  static constexpr int kPieceKeys = 32;
  static constexpr int kPieceBytes = kPieceKeys * kRowBytes;
  static constexpr int kPieces = 2 * kAttentionTile / kPieceKeys;  ///< of a tile: keys, then values
  static constexpr int kWantedSlots = 32 * 1024 / kPieceBytes;
  static constexpr int kSlots = kWantedSlots < 3 ? 3 : kWantedSlots > 8 ? 8 : kWantedSlots;
  static constexpr int kRingBytes = kSlots * kPieceBytes;
  /// Shared memory of a warp: the ring, then the total of the leaves.
  static constexpr int warp_bytes(int head_tiles) { return kRingBytes + head_tiles * 8 * kHeadDim * 4; }

  static_assert(kHeadDim % 32 == 0 && kPieces == 4 && kPieceBytes % 1024 == 0);

  /// What a row's chunk numbers are xored with. Of any 8 rows from a multiple of 8, the same chunk lies in 8 different groups
  /// of 4 banks.
  __device__ static constexpr int swizzle(int row) {
    return kChunks % 8 == 0 ? row & 7 : kChunks % 4 == 0 ? row >> 1 & 3 : row >> 2 & 1;
  }
  __device__ static constexpr int offset(int row, int chunk) { return row * kRowBytes + ((chunk ^ swizzle(row)) << 4); }
};

/// What one warp reads of the cache: keys that the query at `position` sees, in tiles [first_tile, end_tile).
struct DecodeSpan {
  int seq = 0;
  int kv_head = 0;
  int position = 0;
  int first_tile = 0, end_tile = 0;
};

/// The pieces of one span after another: aim, start, then for each tile await(0) and await(1) for keys [0, 32) and [32, 64) of
/// the tile, await(2) and await(3) for their values. All lanes call it together, with constants for `part`.
template <class S>
class DecodePieces {
 public:
  __device__ __forceinline__ DecodePieces(const AttentionParams& p, unsigned char* ring)
      : p_(p),
        ring_(ring),
        whole_chunks_(p.head_dim % S::kPerChunk == 0),
        block_bytes_(static_cast<uint32_t>(p.kv_offset(1, 0, 0, 0) * sizeof(Kv))),
        value_bytes_(static_cast<uint32_t>(p.kv_offset(0, 1, 0, 0) * sizeof(Kv))) {}

  /// Looks up the first tile's blocks; reads index arrays only.
  __device__ __forceinline__ void aim(const DecodeSpan& span) {
    span_ = span;
    head_ = static_cast<const unsigned char*>(p_.kv) + p_.kv_offset(0, 0, span.kv_head, 0) * sizeof(Kv);
    tile_ = span.first_tile;
    find_blocks(tile_);
  }
  /// Asks for the first pieces.
  __device__ __forceinline__ void start() {
    __syncwarp();  // the ring is not read any more
#pragma unroll 1
    for (int i = 0; i + 1 < S::kSlots; ++i) ask(i % S::kPieces, i * S::kPieceBytes);
    awaited_ = 0;
    free_ = (S::kSlots - 1) * S::kPieceBytes;
  }
  /// The next piece, which can be read until the await after this.
  __device__ __forceinline__ const unsigned char* await(int part) {
    gpu::cp_async_wait<S::kSlots - 2>();
    __syncwarp();
    ask((part + S::kSlots - 1) % S::kPieces, free_);
    free_ = awaited_;
    awaited_ = awaited_ == (S::kSlots - 1) * S::kPieceBytes ? 0 : awaited_ + S::kPieceBytes;
    return ring_ + free_;
  }

 private:
  using Kv = typename S::Kv;

  /// Rows whose chunks a whole number of copies of the warp takes; the swizzles of each kRun are the same.
  static constexpr int kRun = S::kChunks % 4 == 0 ? 8 : 16;

  __device__ __forceinline__ int own_key(int tile, int half) const {
    return tile * kAttentionTile + half * S::kPieceKeys + static_cast<int>(threadIdx.x) % 32;
  }
  __device__ __forceinline__ void find_blocks(int tile) {
    const int32_t* table = p_.block_table + int64_t{span_.seq} * p_.max_blocks;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = own_key(tile, half) & -kRun, last = first + kRun - 1;  // of the keys that are copied together
      const bool wanted = first <= span_.position && (p_.window == 0 || last > span_.position - p_.window);
      blocks_[half] = wanted ? table[min(own_key(tile, half), span_.position) >> p_.block_shift] : 0;
    }
  }
  /// Where this lane's keys of tile_ begin in memory, and which of the warp's are seen: zeros take the place of the others.
  __device__ __forceinline__ void place() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = own_key(tile_, half);
      const auto offset =
          static_cast<uint32_t>(key & ((1 << p_.block_shift) - 1)) * static_cast<uint32_t>(p_.head_dim * sizeof(Kv));
      rows_[half] = reinterpret_cast<uint64_t>(head_) + uint64_t{static_cast<uint32_t>(blocks_[half])} * block_bytes_ + offset;
      seen_[half] = __ballot_sync(~0u, attention_sees(span_.position, key, p_.window));
    }
  }
  /// Asks for the next piece; past the end for nothing, so that the waits still count.
  __device__ __forceinline__ void ask(int part, int to) {
    if (tile_ < span_.end_tile) {
      if (part == 0) {
        place();
        find_blocks(tile_ + 1);
      }
      const uint64_t row = (part % 2 ? rows_[1] : rows_[0]) + (part < 2 ? 0 : value_bytes_);
      const uint32_t seen = part % 2 ? seen_[1] : seen_[0];
      if (whole_chunks_ && 1 << p_.block_shift >= kRun) {
        copy_runs(row, seen, ring_ + to);
      } else {
        copy_rows(row, seen, ring_ + to);
      }
    }
    gpu::cp_async_commit();
    if (part == S::kPieces - 1) ++tile_;
  }

  /// Blocks hold whole runs, so that only their first rows need to be known.
  __device__ __forceinline__ void copy_runs(uint64_t own_row, uint32_t seen, unsigned char* to) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint64_t runs[S::kPieceKeys / kRun];
#pragma unroll
    for (int j = 0; j < S::kPieceKeys / kRun; ++j) runs[j] = __shfl_sync(~0u, own_row, j * kRun);
#pragma unroll
    for (int i = 0; i < kRun * S::kChunks / 32; ++i) {
      const int row = (lane + 32 * i) / S::kChunks, chunk = (lane + 32 * i) % S::kChunks, offset = S::offset(row, chunk);
      const auto from = static_cast<uint32_t>(row * p_.head_dim) * static_cast<uint32_t>(sizeof(Kv)) + chunk * 16;
      const uint32_t valid = (chunk + 1) * S::kPerChunk <= p_.head_dim ? seen >> row : 0;
#pragma unroll
      for (int j = 0; j < S::kPieceKeys / kRun; ++j) {
        gpu::cp_async16(to + offset + j * kRun * S::kRowBytes, reinterpret_cast<const void*>(runs[j] + from),
                        (valid & 1u << j * kRun) != 0);
      }
    }
  }
  /// Blocks of few keys; if rows do not consist of whole chunks, element by element and at once.
  __device__ __forceinline__ void copy_rows(uint64_t own_row, uint32_t seen, unsigned char* to) const {
    const int per_unit = whole_chunks_ ? S::kPerChunk : 1;
#pragma unroll 1
    for (int row = 0; row < S::kPieceKeys; ++row, seen >>= 1) {
      const auto* from = reinterpret_cast<const Kv*>(__shfl_sync(~0u, own_row, row));
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x) % 32 * per_unit; i < S::kHeadDim; i += 32 * per_unit) {
        const bool valid = (seen & 1) && i + per_unit <= p_.head_dim;
        unsigned char* at = to + S::offset(row, i / S::kPerChunk) + i % S::kPerChunk * sizeof(Kv);
        if (whole_chunks_) {
          gpu::cp_async16(at, from + i, valid);
        } else {
          *reinterpret_cast<Kv*>(at) = valid ? from[i] : Kv{};
        }
      }
    }
  }

  const AttentionParams& p_;
  unsigned char* ring_;
  bool whole_chunks_;                    ///< of every row
  uint32_t block_bytes_;                 ///< from block to block,
  uint32_t value_bytes_;                 ///< and from a key to its value
  const unsigned char* head_ = nullptr;  ///< block 0, the span's KV head
  DecodeSpan span_;
  int tile_ = 0;           ///< of the piece to be asked for next
  int awaited_ = 0;        ///< offsets of slots: of the piece to be awaited next,
  int free_ = 0;           ///< and of the one before it
  int blocks_[2] = {};     ///< of this lane's keys in the tile that is placed next
  uint64_t rows_[2] = {};  ///< of this lane's keys in tile_
  uint32_t seen_[2] = {};  ///< of the warp's keys in tile_, by lane
};

/// Where a lane reads a piece: a row of the first 16, and of the chunks that it is asked for the one with the lowest bit `odd`.
template <class S>
struct LaneChunks {
  int row_offset, chunk_offset;

  __device__ __forceinline__ LaneChunks(int row, int odd)
      : row_offset(row * S::kRowBytes), chunk_offset((odd ^ S::swizzle(row)) << 4) {}
  /// In row 16 * group + `row` of the piece.
  __device__ __forceinline__ const unsigned char* at(const unsigned char* piece, int group, int chunk) const {
    const unsigned char* from = piece + group * 16 * S::kRowBytes;
    if constexpr ((S::kChunks & (S::kChunks - 1)) ==
                  0) {  // pieces are aligned so that the lane's chunk can be changed in place
      const auto first = reinterpret_cast<uintptr_t>(from + row_offset + chunk_offset);
      return reinterpret_cast<const unsigned char*>(first ^ static_cast<uintptr_t>(chunk << 4));
    }
    return from + row_offset + (chunk_offset ^ chunk << 4);
  }
};

/// Keys as the first operand of the mma: 16 keys of a piece from 16 * group, columns [16 * i, 16 * i + 16) of the head.
template <class S>
struct KeyFragments {
  int lane;
  LaneChunks<S> chunks;

  __device__ __forceinline__ explicit KeyFragments(int lane)
      : lane(lane), chunks(S::kIsByte ? lane / 4 : lane % 16, S::kIsByte ? 0 : lane / 16) {}

  __device__ __forceinline__ void load(uint32_t (&a)[4], const unsigned char* piece, int group, int i) const {
    if constexpr (S::kIsByte) {
      const unsigned char* from =
          piece + group * 16 * S::kRowBytes + chunks.row_offset + (chunks.chunk_offset ^ i << 4) + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[j] = gpu::unpack_e4m3(*reinterpret_cast<const uint16_t*>(from + j % 2 * 8 * S::kRowBytes + j / 2 * 8));
      }
    } else {
      gpu::ldmatrix_x4(a, chunks.at(piece, group, 2 * i));
    }
  }
};

/// Values, transposed, as the first operand of two mma: columns [32 * i, 32 * i + 16) and the next 16, of 16 keys from 16 *
/// group. Which column a row of the operand is, column() says.
template <class S>
struct ValueFragments {
  LaneChunks<S> chunks;

  __device__ __forceinline__ explicit ValueFragments(int lane)
      : chunks(S::kIsByte ? lane % 16 : lane % 8 + lane / 16 * 8, S::kIsByte ? lane / 16 : lane / 8 % 2) {}

  __device__ __forceinline__ void load(uint32_t (&a)[2][4], const unsigned char* piece, int group, int i) const {
    if constexpr (S::kIsByte) {
      // As pairs of bytes, the even and the odd columns of each: 2 * row and 2 * row + 1 make rows `row` and `row` + 8.
      uint32_t pairs[4];
      gpu::ldmatrix_x4_trans(pairs, chunks.at(piece, group, 2 * i));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const uint32_t bytes = __byte_perm(pairs[j / 2], 0, j % 2 ? 0x4431 : 0x4420);
        a[j / 4][j % 4] = gpu::unpack_e4m3(static_cast<uint16_t>(bytes));
      }
    } else {
#pragma unroll
      for (int j = 0; j < 2; ++j) gpu::ldmatrix_x4_trans(a[j], chunks.at(piece, group, 4 * i + 2 * j));
    }
  }
  /// Of row lane / 4 + 8 * half of operand `tile`.
  __device__ static __forceinline__ int column(int tile, int lane, int half) {
    return 16 * tile + (S::kIsByte ? lane / 4 * 2 + half : lane / 4 + 8 * half);
  }
};

}  // namespace pagoda::cuda

// A group's ring of stages in shared memory: rows of the weight, their scales and rows of x, on their way from global memory
// while earlier stages are multiplied. Only the group's own threads wait for each other. Weights are step-constant, so the
// first stages of them, and the lines behind those in L2, are asked for before the grid that makes x has ended. Addresses are
// kept so that a copy takes two instructions: with few tokens a warp has little else to do. Used by linear_kernel.cuh.
#pragma once

#include "cuda/linear.h"
#include "cuda/linear_weights.cuh"

namespace pagoda::cuda {

/// A block's part of a job.
struct LinearWork {
  int expert = 0;
  int row = 0;     ///< the first, of the expert's; of a gated job's both halves
  int rows = 0;    ///< in [1, tile's], or of each half
  int token = 0;   ///< the first row of out
  int tokens = 0;  ///< in [1, tile's]; 0: nothing to do
};

/// A vector of which `count` (any number) elements exist; the others become zero. For rows that are not aligned.
inline __device__ __noinline__ void copy_elements(unsigned char* to, const unsigned char* from, int count) {
  for (int i = 0; i < 8; ++i) {
    reinterpret_cast<uint16_t*>(to)[i] = i < count ? reinterpret_cast<const uint16_t*>(from)[i] : uint16_t{0};
  }
}

/// What a thread copies of a stage's tile of rows in pieces of kPieceBytes: one of every kRowStep-th row.
/// kWholeUnits: rows end with a unit. kGated: of each 16 rows of the tile eight are gate's and the next their eight of up, so
/// that one lane has the sums of both.
template <int kThreads, int kRows, int kRowBytes, int kPieceBytes, bool kWholeUnits, bool kGated>
struct LinearCopy {
  static constexpr int kRowPieces = kRowBytes / kPieceBytes;
  static constexpr int kRowStep = kThreads / kRowPieces;
  static constexpr int kCopies = kRows / kRowStep;
  static_assert(kThreads % kRowPieces == 0 && kRows % kRowStep == 0);
  static constexpr int kStoredStep = kGated && kRowStep > 8 ? 8 : kRowStep;
  static_assert(!kGated || 16 % kRowStep == 0 || kRowStep % 16 == 0);

  const unsigned char* from;  ///< the thread's first piece of unit 0
  uint32_t step_bytes;        ///< of kStoredStep rows in global memory
  uint32_t up_bytes;          ///< from gate to up
  int end;                    ///< bytes of a row from its piece on; may be negative
  int rows;                   ///< of the tile, or of each of its halves, from its row on

  __device__ static int row(int thread) { return thread / kRowPieces; }
  __device__ static int piece(int thread) { return thread % kRowPieces; }

  /// How many stored rows row `row` of the tile lies below its first one, in its half; and which half.
  __device__ static constexpr int stored_row(int row) { return kGated ? row / 16 * 8 + row % 8 : row; }
  __device__ static constexpr bool is_up(int row) { return kGated && row % 16 >= 8; }

  /// `up`: bytes from gate to up.
  __device__ LinearCopy(int thread, const unsigned char* first_row, uint32_t row_bytes, int num_rows, uint32_t up)
      : from(gpu::opaque(first_row + static_cast<uint32_t>(stored_row(row(thread))) * row_bytes +
                         (is_up(row(thread)) ? up : 0u) + piece(thread) * kPieceBytes)),
        step_bytes(gpu::opaque(kStoredStep * row_bytes)),
        up_bytes(up),
        end(static_cast<int>(row_bytes) - piece(thread) * kPieceBytes),
        rows(num_rows - stored_row(row(thread))) {}

  /// Calls copy(i, address) for the thread's pieces of a unit that exist.
  template <class Copy>
  __device__ __forceinline__ void for_each(int unit, Copy&& copy) const {
    const int k = unit * kRowBytes;
    const unsigned char* const at = gpu::opaque(from + k);
    const int count = kWholeUnits || k < end ? rows : 0;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int below = stored_row(i * kRowStep);
      if (below >= count) continue;
      const unsigned char* const place = at + uint64_t{step_bytes} * static_cast<unsigned>(below / kStoredStep);
      copy(i, is_up(i * kRowStep) ? place + up_bytes : place);
    }
  }
};

/// Where a thread's vectors of a tile go: `first`, and below it every kRowStep-th row. Rows four apart are swizzled otherwise.
template <int kRowStep, int kRowBytes>
struct LinearTarget {
  unsigned char* even;
  unsigned char* odd;

  __device__ LinearTarget(unsigned char* tile, int first, int first_below_four)
      : even(gpu::opaque_shared(tile + first)), odd(gpu::opaque_shared(tile + first_below_four - 4 * kRowBytes)) {}
  __device__ unsigned char* at(int i) const { return (i * kRowStep % 8 ? odd : even) + i * kRowStep * kRowBytes; }
};

template <MatrixFormat kFormat, LinearTile kTile, bool kGated>
class LinearRing {
 public:
  static constexpr LinearShape kShape = linear_shape(kTile);
  static constexpr int kUnit = linear_unit(kFormat);
  static constexpr int kStages = kShape.stages[static_cast<int>(kFormat)];
  static constexpr int kScalesAt = linear_weight_bytes(kFormat, kTile);
  static constexpr int kXAt = kScalesAt + linear_scale_bytes(kFormat, kTile);
  static constexpr int kXChunkBytes = 128 * kShape.tokens;
  using Rows = WeightRows<kFormat>;

  /// `shared` holds the block's rings. Reads job.pairs.
  __device__ LinearRing(const LinearJob& job, const LinearWork& work, unsigned char* shared)
      : group_(static_cast<int>(threadIdx.x) / kThreads),
        ring_(gpu::opaque_shared(shared + group_ * linear_ring_bytes(kFormat, kTile))),
        num_units_(linear_num_units(kFormat, job.stride)),
        num_slices_(linear_num_slices(num_units_)),
        weights_(thread(), job.values + first_row(job, work) * value_row_bytes(job), value_row_bytes(job), work.rows,
                 static_cast<uint32_t>(job.rows / 2) * value_row_bytes(job)),
        scales_(thread(), job.scales + first_row(job, work) * scale_row_bytes(job), scale_row_bytes(job), work.rows,
                static_cast<uint32_t>(job.rows / 2) * scale_row_bytes(job)),
        weights_to_(Rows::offset(Weights::row(thread()), Weights::piece(thread()))),
        x_to_(kXAt + linear_swizzle(thread() / 8, thread() % 8)),
        x_(gpu::opaque(job.x + 8 * (thread() % 8))),
        x_row_bytes_(static_cast<uint32_t>(2 * job.x_stride)),
        cols_(job.cols - 8 * (thread() % 8)),
        x_vectors_(job.x_vectors),
        slice_(group_),
        unit_(group_) {
#pragma unroll
    for (int i = 0; i < kXRows; ++i) {
      const int row = thread() / 8 + i * kXRowStep, token = work.token + row;
      x_rows_[i] = row >= work.tokens ? -1 : job.pairs ? job.pairs[token] / job.top_k : token;
    }
  }

  __device__ int group() const { return group_; }
  __device__ int num_units() const { return num_units_; }
  __device__ int num_slices() const { return num_slices_; }

  /// Asks for the weights of the first stages and, if a block has little to do, for those of as many stages behind them in L2.
  __device__ __forceinline__ void prefetch_weights() {
    const int slice = slice_, unit = unit_;
    for (int slot = 0; slot < kStages - 1 && unit_ < num_units_; ++slot, advance()) load_weights(ring_ + slot * kStageBytes);
    if constexpr (kShape.groups > 1) {
      for (int i = 0; i < kStages - 1 && unit_ < num_units_; ++i, advance()) {
        weights_.for_each(unit_, [&](int, const unsigned char* from) {
          if (Weights::piece(thread()) == 0) gpu::prefetch_l2(from);
        });
      }
    }
    slice_ = slice, unit_ = unit;
  }

  /// Asks for the rows of x that belong to them. With the first of these all the weights arrive too.
  __device__ __forceinline__ void start() {
    for (int slot = 0; slot < kStages - 1; ++slot) {
      if (unit_ < num_units_) {
        load_x(ring_ + slot * kStageBytes);
        advance();
      }
      gpu::cp_async_commit();
    }
  }

  /// The next stage, all of it there; the one before is filled again. Called by all of the group's threads.
  __device__ __forceinline__ const unsigned char* next() {
    gpu::cp_async_wait<kStages - 2>();
    if constexpr (kThreads == 32) {
      __syncwarp();
    } else {
      gpu::named_barrier_sync(static_cast<unsigned>(1 + group_), kThreads);
    }
    if (unit_ < num_units_) {
      unsigned char* stage = ring_ + fill_;
      load_weights(stage);
      load_x(stage);
      advance();
    }
    gpu::cp_async_commit();
    fill_ = take_;
    take_ = take_ == (kStages - 1) * kStageBytes ? 0 : take_ + kStageBytes;
    return ring_ + fill_;
  }

  /// To be called once all stages were taken.
  __device__ __forceinline__ void finish() { gpu::cp_async_wait<0>(); }

 private:
  static constexpr int kThreads = kShape.group_threads();
  static constexpr int kStageBytes = linear_stage_bytes(kFormat, kTile);
  static constexpr int kXRowStep = kThreads / 8;
  static constexpr int kXRows = kShape.tokens / kXRowStep;  ///< rows of x of which a thread copies a vector of each chunk
  using Weights = LinearCopy<kThreads, kShape.rows, kScalesAt / kShape.rows, 16, kUnit == kLinearChunk, kGated>;
  using Scales = LinearCopy<kThreads, kShape.rows, matrix_block_scale_bytes(kFormat) == 4 ? 16 : 8, 4, false, kGated>;
  static_assert(kXRows >= 1 && kStageBytes % 128 == 0);

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  __device__ static int64_t first_row(const LinearJob& job, const LinearWork& work) {
    return int64_t{work.expert} * job.rows + work.row;
  }
  __device__ static uint32_t value_row_bytes(const LinearJob& job) {
    return static_cast<uint32_t>(matrix_value_bytes(kFormat, job.stride));
  }
  __device__ static uint32_t scale_row_bytes(const LinearJob& job) {
    return static_cast<uint32_t>(job.stride / 32 * matrix_block_scale_bytes(kFormat));
  }

  /// Goes on to the group's next unit in the order of summation, past the last one to num_units.
  __device__ __forceinline__ void advance() {
    unit_ += num_slices_;
    if constexpr (kShape.groups == 1) {
      if (unit_ < num_units_) return;
      ++slice_;
      unit_ = slice_ < num_slices_ ? slice_ : num_units_;
    }
  }

  __device__ __forceinline__ void load_weights(unsigned char* stage) {
    const LinearTarget<Weights::kRowStep, kScalesAt / kShape.rows> to(stage, weights_to_, Rows::below(weights_to_, 4));
    weights_.for_each(unit_, [&](int i, const unsigned char* from) { gpu::cp_async16(to.at(i), from, true); });
    if constexpr (kXAt > kScalesAt) {
      unsigned char* const scales = gpu::opaque_shared(stage + kScalesAt + 4 * thread());
      scales_.for_each(unit_, [&](int i, const unsigned char* from) { gpu::cp_async4(scales + 4 * i * kThreads, from); });
    }
  }

  /// Rows past the tile's tokens stay as they are: they reach only sums that nobody stores. Columns past the end are zero.
  __device__ __forceinline__ void load_x(unsigned char* stage) {
    const LinearTarget<kXRowStep, 128> to(stage, x_to_, linear_below(x_to_, 4));
#pragma unroll
    for (int chunk = 0; chunk < kUnit / kLinearChunk; ++chunk) {
      const int col = unit_ * kUnit + chunk * kLinearChunk;
      const auto* const from = reinterpret_cast<const unsigned char*>(gpu::opaque(x_ + col));
      if (x_vectors_) {
#pragma unroll
        for (int i = 0; i < kXRows; ++i) {
          if (x_rows_[i] >= 0) gpu::cp_async16(to.at(i) + chunk * kXChunkBytes, from + row_offset(i), col < cols_);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kXRows; ++i) {
          if (x_rows_[i] >= 0) copy_elements(to.at(i) + chunk * kXChunkBytes, from + row_offset(i), cols_ - col);
        }
      }
    }
  }

  __device__ __forceinline__ uint64_t row_offset(int i) const {
    return uint64_t{x_row_bytes_} * static_cast<unsigned>(x_rows_[i]);
  }

  int group_;
  unsigned char* ring_;
  int num_units_, num_slices_;
  Weights weights_;
  Scales scales_;
  int weights_to_, x_to_;  ///< places of the thread's first vectors in a stage
  const Bf16* x_;
  uint32_t x_row_bytes_;
  int cols_;
  bool x_vectors_;
  int slice_, unit_;                        ///< to be asked for next
  int take_ = 0;                            ///< place of the stage to be taken next
  int fill_ = (kStages - 1) * kStageBytes;  ///< and of the one before it
  int x_rows_[kXRows];                      ///< -1: none
};

}  // namespace pagoda::cuda

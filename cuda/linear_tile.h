// The shapes that our matrix products are computed in, and the one order in which every output element is summed, whichever
// shape computes it:
//   - Columns come in units of one or two chunks of 64. Slice s of num_slices takes the units s, s + num_slices, ... and is one
//     chain of mma over 16 columns at a time: of a chunk step j in [0, 4) takes the columns from 16 j on (bf16), or 16 t + 4 j
//     + i with t and i in [0, 4) (the others).
//   - Slices are added to zero in ascending order; of f8 the sum is multiplied by the row's scale; then the bias is added.
// So the bits of an element depend on its row of x, its row of the weight and the number of columns, and on nothing else.
// Included by linear*.cu; no device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/matrix.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

constexpr int kLinearChunk = 64;  ///< columns, what strides are multiples of
constexpr int kLinearMaxSlices = 4;

/// Columns that a stage of the ring holds: 128 bytes of a weight's row, 64 of q4.
constexpr int linear_unit(MatrixFormat format) { return format == MatrixFormat::bf16 ? 64 : 128; }
constexpr int linear_num_units(MatrixFormat format, int64_t stride) {
  return static_cast<int>(divide_up(stride, linear_unit(format)));
}
constexpr int linear_num_slices(int num_units) { return num_units < kLinearMaxSlices ? num_units : kLinearMaxSlices; }

/// What a block computes, by rows of the weight and tokens. Weight rows lie on the long side of the mma.
enum class LinearTile : uint8_t { r16n8, r32n8, r32n16, r32n32, r64n64, r128n128 };
constexpr int kNumLinearTiles = 6;

/// A block is one group of warps_m * warps_n warps, or kLinearMaxSlices groups. Each has a ring of its own and computes the
/// whole tile, the only one over all slices in turn, otherwise each over one.
struct LinearShape {
  int rows, tokens;
  int warps_m, warps_n, groups;
  int blocks;                     ///< of a multiprocessor, at most
  int stages[kNumMatrixFormats];  ///< of a ring, by format

  constexpr int group_threads() const { return 32 * warps_m * warps_n; }
  constexpr int threads() const { return group_threads() * groups; }
};

/// Rings are as deep as leaves room for two to four blocks on a multiprocessor of sm_90, of the last tile one: 50 to 128 KiB of
/// weights are on their way. All fit in the 163 KiB of sm_80.
constexpr LinearShape linear_shape(LinearTile tile) {
  constexpr LinearShape kShapes[kNumLinearTiles] = {
      {16, 8, 1, 1, 4, 4, {5, 4, 4, 4, 4}},  {32, 8, 2, 1, 4, 2, {5, 4, 5, 4, 4}},  {32, 16, 2, 1, 4, 2, {4, 3, 4, 3, 3}},
      {32, 32, 2, 1, 4, 2, {3, 2, 2, 2, 2}}, {64, 64, 4, 1, 1, 3, {4, 4, 3, 4, 4}}, {128, 128, 4, 2, 1, 1, {4, 3, 3, 3, 3}},
  };
  return kShapes[static_cast<int>(tile)];
}

constexpr int linear_weight_bytes(MatrixFormat format, LinearTile tile) {
  return linear_shape(tile).rows * static_cast<int>(matrix_value_bytes(format, linear_unit(format)));
}
/// Of block scales; those of rows are not staged.
constexpr int linear_scale_bytes(MatrixFormat format, LinearTile tile) {
  return linear_shape(tile).rows * linear_unit(format) / 32 * matrix_block_scale_bytes(format);
}
constexpr int linear_stage_bytes(MatrixFormat format, LinearTile tile) {
  return linear_weight_bytes(format, tile) + linear_scale_bytes(format, tile) +
         2 * linear_shape(tile).tokens * linear_unit(format);
}
constexpr int linear_ring_bytes(MatrixFormat format, LinearTile tile) {
  return linear_shape(tile).stages[static_cast<int>(format)] * linear_stage_bytes(format, tile);
}
/// The rings, then the sums of all groups but the first.
constexpr size_t linear_shared_bytes(MatrixFormat format, LinearTile tile) {
  const LinearShape shape = linear_shape(tile);
  return static_cast<size_t>(shape.groups * linear_ring_bytes(format, tile) +
                             4 * (shape.groups - 1) * shape.rows * shape.tokens);
}

/// Blocks that fit on a multiprocessor of sm_90 at once: what registers must suffice for.
constexpr int linear_blocks(MatrixFormat format, LinearTile tile) {
  const int fitting = 228 * 1024 / (static_cast<int>(linear_shared_bytes(format, tile)) + 1024);
  return fitting < linear_shape(tile).blocks ? fitting : linear_shape(tile).blocks;
}

}  // namespace pagoda::cuda

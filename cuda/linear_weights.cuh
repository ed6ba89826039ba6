// Operands of the mma out of a stage in shared memory: 16 rows of the weight, 8 rows of x.
// bf16 is read as it lies by ldmatrix. Of quantised rows, lane t of four holds in every chunk of 64 columns the 16 from 16 t
// on, so that it reads whole vectors and needs one scale; x is read in the same order. A q8 or q4 is rounded once, to
// bf16, with three instructions or fewer: with few tokens they, not the memory, would be the bound of q4 otherwise. An e4m3 is
// a bf16, with two and a half. Used by linear_kernel.cuh.
#pragma once

#include "cuda/linear_tile.h"
#include "cuda/number.cuh"

namespace pagoda::cuda {

/// Where vector `piece` of row `row` lies in a tile with rows of 128 bytes: eight rows have a piece in different banks, and so
/// have two rows four pieces of which every other one is read.
__device__ __forceinline__ int linear_swizzle(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }
/// The place `rows` (a multiple of 4) below the vector at `offset`.
__device__ __forceinline__ int linear_below(int offset, int rows) { return (rows & 4 ? offset ^ 64 : offset) + rows * 128; }

__device__ __forceinline__ int linear_lane() { return static_cast<int>(threadIdx.x) % 32; }

/// A lane's part of a chunk of 16 rows. `offset` tells where weights lie in a stage, `x_offset` where the lane's part of 8 rows
/// of x begins.
template <MatrixFormat kFormat>
class WeightRows;

template <>
class WeightRows<MatrixFormat::bf16> {
 public:
  __device__ static int offset(int row, int piece) { return linear_swizzle(row, piece); }
  __device__ static int below(int offset, int rows) { return linear_below(offset, rows); }
  __device__ static int lane_offset() { return linear_swizzle(linear_lane() % 16, linear_lane() / 16); }
  __device__ static int x_offset() { return linear_swizzle(linear_lane() % 8, linear_lane() / 8); }

  /// `rows`: the first of the 16 in shared memory; `lane`: lane_offset().
  __device__ __forceinline__ void load(const unsigned char* rows, int lane, const unsigned char*, int) {
    rows_ = rows;
    lane_ = lane;
  }
  __device__ __forceinline__ void operands(uint32_t (&a)[4], int step) const {
    gpu::ldmatrix_x4(a, rows_ + (lane_ ^ step << 5));
  }
  /// Of steps 2 * half and the next; `rows` is the first of the 8, `lane` x_offset().
  __device__ __forceinline__ static void load_x(uint32_t (&b)[4], const unsigned char* rows, int lane, int half) {
    gpu::ldmatrix_x4(b, rows + (lane ^ half << 6));
  }

 private:
  const unsigned char* rows_;
  int lane_;
};

/// x for quantised weights: step j takes the columns 16 t + 4 j to 16 t + 4 j + 3 for lane t.
class QuantisedX {
 public:
  __device__ static int x_offset() { return linear_swizzle(linear_lane() / 4, 2 * (linear_lane() % 4)); }
  __device__ __forceinline__ static void load_x(uint32_t (&b)[4], const unsigned char* rows, int lane, int half) {
    const uint4 vector = *reinterpret_cast<const uint4*>(rows + (lane ^ half << 4));
    b[0] = vector.x, b[1] = vector.y, b[2] = vector.z, b[3] = vector.w;
  }
};

template <>
class WeightRows<MatrixFormat::q8> : public QuantisedX {
 public:
  /// Lanes read four neighbouring pieces of two rows at once.
  __device__ static int offset(int row, int piece) { return row * 128 + ((piece ^ (row & 1) << 2) << 4); }
  __device__ static int below(int offset, int rows) { return offset + rows * 128; }
  __device__ static int lane_offset() { return offset(linear_lane() / 4, linear_lane() % 4); }

  /// `scales`: the f16 of the first row and the chunk's first block.
  __device__ __forceinline__ void load(const unsigned char* rows, int lane, const unsigned char* scales, int chunk) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 vector = *reinterpret_cast<const uint4*>(rows + 1024 * i + (lane ^ chunk << 6));
      words_[i][0] = vector.x, words_[i][1] = vector.y, words_[i][2] = vector.z, words_[i][3] = vector.w;
      d_[i] =
          to_float(reinterpret_cast<const F16*>(scales)[4 * (linear_lane() / 4 + 8 * i) + 2 * chunk + linear_lane() % 4 / 2]);
      offset_[i] = -32896.0f * d_[i];  // (2^15 + 128) d has 9 + 11 bits: exact
    }
  }
  __device__ __forceinline__ void operands(uint32_t (&a)[4], int step) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t word = words_[i][step] ^ 0x80808080u;  // q + 128
      float value[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t bits = __byte_perm(word, 0x47000000u, 0x7504u | static_cast<unsigned>(j) << 4);  // 2^15 + q + 128
        value[j] = fmaf(__uint_as_float(bits), d_[i], offset_[i]);                                      // d * q, exact
      }
      a[i] = gpu::pack_bf16(value[0], value[1]);
      a[i + 2] = gpu::pack_bf16(value[2], value[3]);
    }
  }

 private:
  uint32_t words_[2][4];
  float d_[2], offset_[2];
};

/// What e4m3 with and without block scales have in common: a lane's words, rows of 128 bytes as those of q8.
class E4m3Rows : public QuantisedX {
 public:
  __device__ static int offset(int row, int piece) { return row * 128 + ((piece ^ (row & 1) << 2) << 4); }
  __device__ static int below(int offset, int rows) { return offset + rows * 128; }
  __device__ static int lane_offset() { return offset(linear_lane() / 4, linear_lane() % 4); }

 protected:
  __device__ __forceinline__ void load_words(const unsigned char* rows, int lane, int chunk) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 vector = *reinterpret_cast<const uint4*>(rows + 1024 * i + (lane ^ chunk << 6));
      words_[i][0] = vector.x, words_[i][1] = vector.y, words_[i][2] = vector.z, words_[i][3] = vector.w;
    }
  }
  /// Values 2 * pair and the next of row i's four.
  __device__ __forceinline__ uint32_t values(int i, int step, int pair) const {
    return gpu::e4m3_to_bf16(__byte_perm(words_[i][step], 0, pair ? 0x3424u : 0x1404u));
  }

 private:
  uint32_t words_[2][4];
};

/// Nothing is rounded: the row's scale multiplies the sum.
template <>
class WeightRows<MatrixFormat::f8> : public E4m3Rows {
 public:
  __device__ __forceinline__ void load(const unsigned char* rows, int lane, const unsigned char*, int chunk) {
    load_words(rows, lane, chunk);
  }
  __device__ __forceinline__ void operands(uint32_t (&a)[4], int step) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = values(i % 2, step, i / 2);
  }
};

/// d * q is rounded to f32, then to bf16: what f8_e4m3 becomes when it is packed as bf16.
template <>
class WeightRows<MatrixFormat::f8_blocks> : public E4m3Rows {
 public:
  /// `scales`: the f32 of the first row and the chunk's first block.
  __device__ __forceinline__ void load(const unsigned char* rows, int lane, const unsigned char* scales, int chunk) {
    load_words(rows, lane, chunk);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      d_[i] = reinterpret_cast<const float*>(scales)[4 * (linear_lane() / 4 + 8 * i) + 2 * chunk + linear_lane() % 4 / 2];
    }
  }
  __device__ __forceinline__ void operands(uint32_t (&a)[4], int step) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 q = unpack_bf16(values(i % 2, step, i / 2));
      a[i] = gpu::pack_bf16(d_[i % 2] * q.x, d_[i % 2] * q.y);
    }
  }

 private:
  float d_[2];
};

template <>
class WeightRows<MatrixFormat::q4> : public QuantisedX {
 public:
  /// Rows of 64 bytes; two rows and two pieces are read at once.
  __device__ static int offset(int row, int piece) { return row * 64 + (piece << 4); }
  __device__ static int below(int offset, int rows) { return offset + rows * 64; }
  __device__ static int lane_offset() { return offset(linear_lane() / 4, linear_lane() % 4 / 2); }

  /// `scales`: the pair of f16 of the first row and the chunk's first block.
  __device__ __forceinline__ void load(const unsigned char* rows, int lane, const unsigned char* scales, int chunk) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 vector = *reinterpret_cast<const uint4*>(rows + 512 * i + lane + 32 * chunk);
      words_[i][0] = vector.x, words_[i][1] = vector.y, words_[i][2] = vector.z, words_[i][3] = vector.w;
      const uint32_t d_m =
          reinterpret_cast<const uint32_t*>(scales)[4 * (linear_lane() / 4 + 8 * i) + 2 * chunk + linear_lane() % 4 / 2];
      d_[i] = gpu::f16_to_float(static_cast<uint16_t>(d_m));
      // Exact unless |m| < |d| / 512, and then within 2^-20 d.
      offset_[i] = fmaf(-16.0f, d_[i], gpu::f16_to_float(static_cast<uint16_t>(d_m >> 16)));
    }
  }
  /// Lanes 0 and 2 of four have the low halves of their bytes, the others the high ones.
  __device__ __forceinline__ void operands(uint32_t (&a)[4], int step) const {
    const unsigned rotation = linear_lane() % 2 ? 31 : 3;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t rotated = __funnelshift_l(words_[i][step], words_[i][step], rotation);  // the half in bits 3 to 6
      const uint32_t word = (rotated & 0x78787878u) | 0x80808080u;
      float value[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t bits = __byte_perm(word, 0x41000000u, 0x7054u | static_cast<unsigned>(j) << 8);  // 16 + n
        value[j] = fmaf(__uint_as_float(bits), d_[i], offset_[i]);
      }
      a[i] = gpu::pack_bf16(value[0], value[1]);
      a[i + 2] = gpu::pack_bf16(value[2], value[3]);
    }
  }

 private:
  uint32_t words_[2][4];
  float d_[2], offset_[2];
};

}  // namespace pagoda::cuda

// Rows of values cut into vectors of eight, dealt to threads in one flat order: what the kernels that work element by element
// have in common. A vector is loaded as packed words, so that several are under way before the first is looked at; rows that do
// not begin at multiples of 16 bytes, and the end of a row, are taken value by value. Used by embed.cu, norm.cu and
// elementwise.cu.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "cuda/gpu.h"
#include "cuda/number.cuh"
#include "cuda/queue.h"

namespace pagoda::cuda {

constexpr int kVector = 8;  ///< values

/// Rows `stride` values apart.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  __device__ T* at(int64_t row, int col) const { return data + row * stride + col; }
};

template <class T>
Rows<T> rows_of(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data), tensor.row_stride};
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }
/// Whether every row begins at a multiple of 16 bytes.
inline bool rows_are_aligned(const Tensor& tensor) {
  return is_aligned(tensor.data) && static_cast<size_t>(tensor.row_stride) * dtype_bytes(tensor.dtype) % 16 == 0;
}

/// Eight values as they lie in memory.
template <class T>
struct Packed {
  static constexpr int kBits = 8 * static_cast<int>(sizeof(T));
  static constexpr int kPerWord = 32 / kBits;
  static constexpr int kWords = kVector / kPerWord;
  uint32_t words[kWords];
};

__device__ __forceinline__ void unpack(const Packed<Bf16>& packed, float (&out)[kVector]) {
  unpack_bf16x8(make_uint4(packed.words[0], packed.words[1], packed.words[2], packed.words[3]), out);
}
__device__ __forceinline__ void unpack(const Packed<float>& packed, float (&out)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) out[i] = __uint_as_float(packed.words[i]);
}

__device__ __forceinline__ void pack(Packed<Bf16>& packed, const float (&in)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) packed.words[i] = gpu::pack_bf16(in[2 * i], in[2 * i + 1]);
}
__device__ __forceinline__ void pack(Packed<float>& packed, const float (&in)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) packed.words[i] = __float_as_uint(in[i]);
}

__device__ __forceinline__ uint32_t value_bits(Bf16 value) { return value.bits; }
__device__ __forceinline__ uint32_t value_bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ void set_bits(Bf16& value, uint32_t bits) { value.bits = static_cast<uint16_t>(bits); }
__device__ __forceinline__ void set_bits(float& value, uint32_t bits) { value = __uint_as_float(bits); }

/// The first `count` values (of more than 8, 8), zeros behind them. `aligned`: `from` is a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ Packed<T> load_vector(const T* from, int count, bool aligned) {
  using P = Packed<T>;
  P packed;
  if (aligned && count >= kVector) {
#pragma unroll
    for (int i = 0; i < P::kWords; i += 4) {
      const uint4 part = reinterpret_cast<const uint4*>(from)[i / 4];
      packed.words[i] = part.x, packed.words[i + 1] = part.y, packed.words[i + 2] = part.z, packed.words[i + 3] = part.w;
    }
    return packed;
  }
#pragma unroll
  for (int i = 0; i < P::kWords; ++i) {
    packed.words[i] = 0;
#pragma unroll
    for (int j = 0; j < P::kPerWord; ++j) {
      if (i * P::kPerWord + j < count) packed.words[i] |= value_bits(from[i * P::kPerWord + j]) << (j * P::kBits);
    }
  }
  return packed;
}

/// Writes the first `count` values.
template <class T>
__device__ __forceinline__ void store_vector(T* to, const Packed<T>& packed, int count, bool aligned) {
  using P = Packed<T>;
  if (aligned && count >= kVector) {
#pragma unroll
    for (int i = 0; i < P::kWords; i += 4) {
      reinterpret_cast<uint4*>(to)[i / 4] =
          make_uint4(packed.words[i], packed.words[i + 1], packed.words[i + 2], packed.words[i + 3]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (i < count) set_bits(to[i], packed.words[i / P::kPerWord] >> (i % P::kPerWord * P::kBits));
  }
}

/// Where a thread's vector stands.
struct VectorPlace {
  int64_t row;
  int col;
  int count;  ///< values of it inside the row; 0: there is no such vector
};

constexpr int kVectorThreads = 128;  ///< of a block that works on a VectorGrid

/// The vectors of `rows` rows of `cols` values in one flat order, kUnroll to a thread: a warp's are adjacent, so that short
/// rows leave no thread idle.
template <int kUnroll>
struct VectorGrid {
  int64_t rows;
  int cols;
  int vectors;   ///< of a row
  bool aligned;  ///< all rows that the kernel touches

  VectorGrid(int64_t rows, int64_t cols, bool aligned)
      : rows(rows), cols(static_cast<int>(cols)), vectors(static_cast<int>(divide_up(cols, kVector))), aligned(aligned) {}

  LaunchShape launch_shape() const {
    return {static_cast<unsigned>(divide_up(rows * vectors, kVectorThreads * kUnroll)), kVectorThreads};
  }

  /// The thread's vectors.
  __device__ void places(VectorPlace (&out)[kUnroll]) const {
    const int64_t first = int64_t{blockIdx.x} * (kVectorThreads * kUnroll);
    const int64_t first_row = first / vectors;
    const unsigned first_vector = static_cast<unsigned>(first - first_row * vectors);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const unsigned vector = first_vector + i * kVectorThreads + threadIdx.x;
      const unsigned rows_down = vector / static_cast<unsigned>(vectors);
      const int64_t row = first_row + rows_down;
      const int col = static_cast<int>(vector - rows_down * static_cast<unsigned>(vectors)) * kVector;
      out[i] = {row, col, row < rows ? min(cols - col, kVector) : 0};
    }
  }
};

}  // namespace pagoda::cuda

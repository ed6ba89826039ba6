// A block per row fills, a warp per row hashes: both are bound by memory, 2 to 4 bytes an element, and run only while the
// engine starts. A hash is a sum of mixed elements modulo 2^64, so that its order does not matter.
#include "cuda/gemm_probe.h"
#include "cuda/gpu.h"
#include "cuda/number.cuh"
#include "cuda/reduce.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kFillThreads = 128;
constexpr int kHashWarps = 4;

struct ProbeArgs {
  void* values;  // [rows, stride]
  int64_t cols, stride;
  uint32_t seed;
  float mirrored_sign;
};

__device__ __forceinline__ uint64_t mixed(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

/// An odd number in (-2^23, 2^23), never zero, in parts of 2^23.
__device__ __forceinline__ void make_value(Bf16& value, uint64_t random, float sign) {
  value = from_float<Bf16>(sign * static_cast<float>(static_cast<int32_t>((random >> 40) | 1u) - (1 << 23)) * 0x1p-23f);
}
/// Any code but 448 and NaN.
__device__ __forceinline__ void make_value(E4m3& value, uint64_t random, float sign) {
  const uint32_t magnitude = static_cast<uint32_t>(random >> 40 & 0x7fu) % 126u;
  value = from_float<E4m3>(sign * (random >> 63 ? -1.0f : 1.0f) * to_float(E4m3{static_cast<uint8_t>(magnitude)}));
}

template <class T>
__global__ void fill_kernel(ProbeArgs args) {
  gpu::wait_for_grid();
  const int64_t row = blockIdx.x, half = args.cols / 2;
  for (int64_t col = threadIdx.x; col < args.stride; col += kFillThreads) {
    const bool mirrored = col >= half && col < 2 * half;
    const uint64_t place = static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(mirrored ? col - half : col);
    const uint64_t random = mixed(place + args.seed * 0x9e3779b97f4a7c15ull);
    T value{};
    if (col < args.cols) make_value(value, random, mirrored ? args.mirrored_sign : 1.0f);
    static_cast<T*>(args.values)[row * args.stride + col] = value;
  }
}

struct HashArgs {
  uint64_t* hashes;  // [rows]
  const void* values;
  int64_t rows, cols, stride;
};

template <class Bits>
__global__ void hash_kernel(HashArgs args) {
  gpu::wait_for_grid();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kHashWarps + threadIdx.x / 32;
  if (row >= args.rows) return;
  const Bits* values = static_cast<const Bits*>(args.values) + row * args.stride;
  uint64_t sum = 0;
  for (int64_t col = threadIdx.x % 32; col < args.cols; col += 32) sum += mixed(static_cast<uint64_t>(col) << 32 | values[col]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) args.hashes[row] = sum;
}

}  // namespace

void fill_probe(const Queue& queue, const Tensor& matrix, uint32_t seed, bool negated) {
  const ProbeArgs args{matrix.data, matrix.cols(), matrix.row_stride, seed, negated ? -1.0f : 1.0f};
  const auto kernel = matrix.dtype == DType::f8_e4m3 ? fill_kernel<E4m3> : fill_kernel<Bf16>;
  launch(queue, {static_cast<unsigned>(matrix.rows()), kFillThreads}, "fill_probe", kernel, args);
}

void hash_rows(const Queue& queue, uint64_t* hashes, const Tensor& matrix) {
  const HashArgs args{hashes, matrix.data, matrix.rows(), matrix.cols(), matrix.row_stride};
  const LaunchShape shape{static_cast<unsigned>(divide_up(args.rows, kHashWarps)), 32 * kHashWarps};
  if (matrix.dtype == DType::f32) {
    launch(queue, shape, "hash_rows", hash_kernel<uint32_t>, args);
  } else {
    launch(queue, shape, "hash_rows", hash_kernel<uint16_t>, args);
  }
}

}  // namespace pagoda::cuda

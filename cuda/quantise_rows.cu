// Rows in e4m3 with a scale each. Parallel over rows, a block for each, which reads its row twice, the second time from the
// cache. Bound by memory: 2 bytes read and one written for each value. Called by LtMatmul.
#include "cuda/elementwise.cuh"
#include "cuda/quantise_rows.h"
#include "cuda/reduce.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLargest = 448;
constexpr float kSmallestMaximum = 0x1p-100f;  ///< less counts as this much: its inverse is finite

__global__ void __launch_bounds__(kThreads) quantise_rows_kernel(uint8_t* values, float* scales, Rows<const Bf16> x, int cols) {
  DYNAMIC_SHARED(shared);
  gpu::wait_for_grid();
  const int64_t row = blockIdx.x;
  const int first = static_cast<int>(threadIdx.x) * kVector;
  uint32_t largest = 0;  // magnitudes as bits are ordered like the numbers, NaN the largest
  for (int col = first; col < cols; col += kThreads * kVector) {
    const Packed<Bf16> packed = load_vector<Bf16>(x.at(row, col), kVector, true);
#pragma unroll
    for (int i = 0; i < Packed<Bf16>::kWords; ++i) {
      largest = max(largest, max(packed.words[i] & 0x7fffu, packed.words[i] >> 16 & 0x7fffu));
    }
  }
  largest = block_max<kThreads / 32>(largest, reinterpret_cast<uint32_t*>(shared));
  gpu::launch_dependents();
  const float magnitude = to_float(Bf16{static_cast<uint16_t>(largest)});
  const float maximum = magnitude < kSmallestMaximum ? kSmallestMaximum : magnitude;
  const float factor = kLargest / maximum;
  if (threadIdx.x == 0) scales[row] = maximum / kLargest;
  for (int col = first; col < cols; col += kThreads * kVector) {
    float in[kVector];
    unpack(load_vector<Bf16>(x.at(row, col), kVector, true), in);
    uint32_t words[2] = {};
#pragma unroll
    for (int i = 0; i < kVector; ++i) words[i / 4] |= uint32_t{from_float<E4m3>(in[i] * factor).bits} << (i % 4 * 8);
    *reinterpret_cast<uint2*>(values + row * cols + col) = make_uint2(words[0], words[1]);
  }
}

}  // namespace

void quantise_rows(const Queue& queue, void* values, float* scales, const Tensor& x) {
  launch(queue, {static_cast<unsigned>(x.rows()), kThreads, kThreads / 32 * sizeof(uint32_t)}, "quantise_rows",
         quantise_rows_kernel, static_cast<uint8_t*>(values), scales, rows_of<const Bf16>(x), static_cast<int>(x.cols()));
}

}  // namespace pagoda::cuda

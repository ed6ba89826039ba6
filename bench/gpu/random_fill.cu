// Random numbers into GPU memory, a hash of the place each: parallel over words of 4 bytes, bound by the writes. Used by the
// benchmarks of kernels, which must not run on zeros: those switch fewer transistors and let the GPU run faster than real data
// does.
#include "bench_device.h"
#include "cuda/gpu.h"

namespace pagoda::bench {
namespace {

constexpr unsigned kThreads = 256;

__device__ uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

/// Sum of four uniform numbers: near enough to a normal distribution of variance 1.
__device__ float normal(uint32_t bits) {
  const uint32_t sum = (bits & 0xffu) + (bits >> 8 & 0xffu) + (bits >> 16 & 0xffu) + (bits >> 24);
  return (static_cast<float>(sum) - 510.0f) * (1.0f / 147.8f);
}

__global__ void __launch_bounds__(kThreads)
    random_fill_kernel(uint32_t* out, int64_t n, Fill fill, float scale, uint32_t seed) {
  gpu::wait_for_grid();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += int64_t{gridDim.x} * kThreads) {
    const uint32_t low = scramble(static_cast<uint32_t>(i) * 2u ^ scramble(seed + static_cast<uint32_t>(i >> 32)));
    const uint32_t high = scramble(low + 0x9e3779b9u);
    switch (fill) {
      case Fill::bytes:
        out[i] = low;
        break;
      case Fill::bf16:
        out[i] = gpu::pack_bf16(scale * normal(low), scale * normal(high));
        break;
      case Fill::f16:
        out[i] = gpu::pack_f16(scale * normal(low), scale * normal(high));
        break;
      case Fill::e4m3:
        out[i] = low & 0xbfbfbfbfu;
        break;
      case Fill::f32:
        out[i] = __float_as_uint(scale * (normal(low) + static_cast<float>(high >> 8) * (0x1p-24f / 147.8f)));
        break;
    }
  }
}

}  // namespace

void random_fill(const cuda::Queue& queue, void* memory, size_t bytes, Fill fill, float scale, uint32_t seed) {
  const auto n = static_cast<int64_t>(bytes / 4);
  const int64_t blocks = std::min(cuda::divide_up(n, kThreads), int64_t{queue.num_multiprocessors} * 16);
  cuda::launch(queue, {static_cast<unsigned>(blocks), kThreads}, "random_fill", random_fill_kernel,
               static_cast<uint32_t*>(memory), n, fill, scale, seed);
}

}  // namespace pagoda::bench

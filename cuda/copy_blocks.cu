// Copies of KV blocks between pools. Parallel over (copy, chunk of 16 KB), a CTA each, four vectors of 16 bytes in flight to a
// thread. Bound by memory, or by the link to the host when a pool lies there: every byte is read and written once. Called by
// CudaBackend to swap blocks out and in.
#include "cuda/gpu.h"
#include "cuda/kernels.h"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kChunk = kThreads * kUnroll;  ///< vectors

struct CopyParams {
  uint4* to;
  const uint4* from;
  int64_t block_vectors;  ///< of 16 bytes
  unsigned chunks;        ///< of a block
  const BlockCopy* copies;
};

__global__ void __launch_bounds__(kThreads) copy_blocks_kernel(CopyParams p) {
  const unsigned index = blockIdx.x / p.chunks;
  gpu::wait_for_grid();
  const BlockCopy copy = p.copies[index];
  const int64_t first = int64_t{blockIdx.x - index * p.chunks} * kChunk + threadIdx.x;
  const uint4* from = p.from + copy.from * p.block_vectors;
  uint4* to = p.to + copy.to * p.block_vectors;
  uint4 vectors[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (first + i * kThreads < p.block_vectors) vectors[i] = gpu::load_once(from + first + i * kThreads);
  }
  gpu::launch_dependents();
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (first + i * kThreads < p.block_vectors) to[first + i * kThreads] = vectors[i];
  }
}

}  // namespace

void copy_blocks(const Queue& queue, void* to, const void* from, size_t block_bytes, const BlockCopy* copies, int64_t n) {
  CopyParams p{static_cast<uint4*>(to), static_cast<const uint4*>(from), static_cast<int64_t>(block_bytes / sizeof(uint4)), 1,
               copies};
  p.chunks = static_cast<unsigned>(divide_up(p.block_vectors, kChunk));
  launch(queue, {static_cast<unsigned>(n * p.chunks), kThreads}, "copy_blocks", copy_blocks_kernel, p);
}

}  // namespace pagoda::cuda

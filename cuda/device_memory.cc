// cudaMalloc once for each piece.
#include "cuda/device_memory.h"

#include <cuda_runtime.h>

#include "core/check.h"
#include "cuda/queue.h"

namespace pagoda::cuda {
Buffer DeviceMemory::allocate_piece(size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it would come out of the next call again
    size_t free_bytes = 0, total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "reading the GPU's memory");
    throw DeviceError(str("the GPU has no room for ", bytes, " bytes; ", free_bytes, " of ", total_bytes, " bytes are free"));
  }
  check(error, "allocating GPU memory");
  *taken_ += bytes;
  return Buffer(data, [bytes, taken = taken_](void* p) {
    *taken -= bytes;
    cudaFree(p);
  });
}

void DeviceMemory::reserve(size_t bytes) {
  piece_.reset();
  piece_ = bytes ? allocate_piece(bytes) : nullptr;
  piece_bytes_ = bytes;
  used_ = 0;
}

Buffer DeviceMemory::allocate(size_t bytes) {
  bytes = (bytes + kUnit - 1) / kUnit * kUnit;
  if (bytes > piece_bytes_ - used_) return allocate_piece(bytes ? bytes : kUnit);
  Buffer buffer(piece_, static_cast<char*>(piece_.get()) + used_);
  used_ += bytes;
  return buffer;
}

Buffer allocate_pinned(size_t bytes) {
  void* data = nullptr;
  check(cudaHostAlloc(&data, bytes ? bytes : 1, cudaHostAllocDefault), "allocating pinned memory");
  return Buffer(data, [](void* p) { cudaFreeHost(p); });
}

}  // namespace pagoda::cuda

// Tensor maps: how Hopper's tensor memory accelerator (TMA) cuts an array in global memory into boxes that it copies to shared
// memory (gpu::tma_load). Made on the host, passed to kernels as `const __grid_constant__ CUtensorMap`.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

namespace pagoda::cuda {

/// An array of bf16 and the boxes that are copied from it; dimension 0 is the contiguous one. What a box has outside of the
/// array arrives as zeros. A box lies densely in shared memory; its rows along dimension 0 are swizzled (see gpu::tma_load).
struct TensorBoxes {
  static constexpr int kMaxRank = 5;
  const void* base = nullptr;                ///< 16-byte aligned
  int rank = 0;                              ///< 2 to kMaxRank
  std::array<uint64_t, kMaxRank> sizes{};    ///< elements
  std::array<uint64_t, kMaxRank> strides{};  ///< bytes to the next element of a dimension, multiples of 16; [0] is not read
  std::array<uint32_t, kMaxRank> box{};      ///< elements, 1 to 256; [0] a multiple of 8, at most 64
};

/// Throws DeviceError if the driver knows no tensor maps or refuses this one.
CUtensorMap tensor_map(const TensorBoxes& boxes);

}  // namespace pagoda::cuda

// Where packed weights lie: huge pages, shared by many matrices. A small model's matrices are smaller than a huge page each,
// and streaming them from 4 KiB pages loses a fifth of the memory's speed. Owned by CpuBackend, used by pack_weight.
#pragma once

#include <cstddef>
#include <memory>

namespace pagoda::cpu {

/// Hands out pieces of large slabs. A slab lives as long as one of its pieces. Its untouched end takes no memory, so a model
/// loses at most one huge page per slab. One thread at a time.
class PackMemory {
 public:
  static constexpr size_t kAlignment = 64;

  /// `bytes` of uninitialised memory, 64-byte aligned. Throws DeviceError naming the size when the machine has no room.
  std::shared_ptr<std::byte> allocate(size_t bytes);

 private:
  static constexpr size_t kHugePageBytes = size_t{2} << 20;
  static constexpr size_t kSlabBytes = size_t{64} << 20;

  std::shared_ptr<std::byte> slab_;
  size_t used_ = 0;
  size_t capacity_ = 0;
};

}  // namespace pagoda::cpu

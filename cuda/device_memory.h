// The GPU's memory in few large pieces: what is planned is taken at once and given out from it. Owned by CudaBackend.
#pragma once

#include <cstddef>
#include <memory>

#include "backend/backend.h"

namespace pagoda::cuda {

/// Invariants: 1. A piece lives as long as a buffer of it. 2. Buffers are 256-byte aligned and do not overlap. 3. From a piece
/// that was reserved not a byte more is given out than was asked for; what does not fit takes a piece of its own.
class DeviceMemory {
 public:
  static constexpr size_t kUnit = 256;

  /// Takes `bytes` in one piece for the coming calls of `allocate`. Throws DeviceError when the device has no room.
  void reserve(size_t bytes);
  /// `bytes` rounded up to kUnit; uninitialised.
  Buffer allocate(size_t bytes);
  /// Bytes of all pieces that live.
  size_t num_taken_bytes() const { return *taken_; }

 private:
  Buffer allocate_piece(size_t bytes);

  std::shared_ptr<size_t> taken_ = std::make_shared<size_t>(0);  // a piece may outlive this
  Buffer piece_;
  size_t piece_bytes_ = 0;
  size_t used_ = 0;
};

/// Pinned memory of the host, which the device copies from and to without the CPU. Throws DeviceError.
Buffer allocate_pinned(size_t bytes);

}  // namespace pagoda::cuda

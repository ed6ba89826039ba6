// Copies from ordinary memory to the device that do not wait: through a ring of pinned buffers. Owned by CudaBackend.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "backend/backend.h"

namespace pagoda::cuda {

/// Invariants: 1. A slot is written only after the copy out of it has ended. 2. Copies reach the device in the order of the
/// calls, as everything in the stream does.
class Staging {
 public:
  explicit Staging(cudaStream_t stream);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// `host` may be changed after the return.
  void upload(void* device, const void* host, size_t bytes);
  /// Waits for the stream.
  void download(void* host, const void* device, size_t bytes);

 private:
  static constexpr size_t kSlotBytes = size_t{4} << 20;
  static constexpr size_t kNumSlots = 4;

  struct Slot {
    Buffer memory;
    cudaEvent_t copied = nullptr;
    bool in_use = false;
  };
  Slot& next_slot();

  cudaStream_t stream_;
  std::array<Slot, kNumSlots> slots_;
  size_t next_ = 0;
};

}  // namespace pagoda::cuda

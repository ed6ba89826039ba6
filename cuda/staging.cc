// The ring of slots; a large upload passes through it in pieces.
#include "cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "cuda/device_memory.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

Staging::Staging(cudaStream_t stream) : stream_(stream) {
  for (Slot& slot : slots_) {
    slot.memory = allocate_pinned(kSlotBytes);
    check(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "making an event");
  }
}

Staging::~Staging() {
  for (Slot& slot : slots_) {
    if (slot.in_use) cudaEventSynchronize(slot.copied);
    if (slot.copied) cudaEventDestroy(slot.copied);
  }
}

Staging::Slot& Staging::next_slot() {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % kNumSlots;
  if (slot.in_use) check(cudaEventSynchronize(slot.copied), "waiting for an upload");
  slot.in_use = true;
  return slot;
}

void Staging::upload(void* device, const void* host, size_t bytes) {
  for (size_t begin = 0; begin < bytes; begin += kSlotBytes) {
    const size_t piece = std::min(kSlotBytes, bytes - begin);
    Slot& slot = next_slot();
    std::memcpy(slot.memory.get(), static_cast<const char*>(host) + begin, piece);
    check(cudaMemcpyAsync(static_cast<char*>(device) + begin, slot.memory.get(), piece, cudaMemcpyHostToDevice, stream_),
          "uploading");
    check(cudaEventRecord(slot.copied, stream_), "recording an upload");
  }
}

void Staging::download(void* host, const void* device, size_t bytes) {
  for (size_t begin = 0; begin < bytes; begin += kSlotBytes) {
    const size_t piece = std::min(kSlotBytes, bytes - begin);
    Slot& slot = next_slot();
    check(cudaMemcpyAsync(slot.memory.get(), static_cast<const char*>(device) + begin, piece, cudaMemcpyDeviceToHost, stream_),
          "downloading");
    check(cudaStreamSynchronize(stream_), "waiting for a download");
    std::memcpy(static_cast<char*>(host) + begin, slot.memory.get(), piece);
    slot.in_use = false;
  }
}

}  // namespace pagoda::cuda

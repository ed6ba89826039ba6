// The slabs behind packed weights, and the one place that asks the system for huge pages.
#include "backend/cpu/pack_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "core/check.h"

namespace pagoda::cpu {

std::shared_ptr<std::byte> PackMemory::allocate(size_t bytes) {
  const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (!slab_ || size > capacity_ - used_) {
    const size_t slab_bytes = std::max((size + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes, kSlabBytes);
    void* memory = std::aligned_alloc(kHugePageBytes, slab_bytes);
    if (!memory) throw DeviceError(str("the machine has no room for ", bytes, " bytes of weights"));
#if defined(MADV_HUGEPAGE)
    madvise(memory, slab_bytes, MADV_HUGEPAGE);  // a hint: without huge pages the slab is slower, not wrong
#endif
    slab_ = {static_cast<std::byte*>(memory), std::free};
    capacity_ = slab_bytes;
    used_ = 0;
  }
  std::byte* piece = slab_.get() + used_;
  used_ += size;
  return {slab_, piece};
}

}  // namespace pagoda::cpu

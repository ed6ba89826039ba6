// Scratch memory of one step: a bump allocator over one planned buffer, given back in scopes.
// Owned by the runner; used through Ops. Without a buffer it only measures, which is how the memory plan finds the workspace
// size.
#pragma once

#include <algorithm>
#include <cstddef>

#include "backend/backend.h"
#include "core/check.h"

namespace pagoda {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  /// A measuring arena: pointers are null, `high_water` tells what a run would need.
  Arena() = default;

  /// An arena of `bytes` in the backend's memory.
  Arena(Backend& backend, size_t bytes) : buffer_(backend.allocate(bytes)), capacity_(bytes) {}

  bool measuring() const { return buffer_ == nullptr; }

  /// 64-byte aligned memory, null while measuring. Throws InternalError past the planned size: the plan was wrong.
  void* allocate(size_t bytes) {
    const size_t begin = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    high_water_ = std::max(high_water_, used_);
    if (measuring()) return nullptr;
    ensure(used_ <= capacity_, "workspace of ", capacity_, " bytes is too small: ", used_, " bytes were asked for");
    return static_cast<char*>(buffer_.get()) + begin;
  }

  size_t used() const { return used_; }
  size_t capacity() const { return capacity_; }
  size_t high_water() const { return high_water_; }

  /// Everything allocated during a scope's life is given back at its end.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), used_(arena.used_) {}
    ~Scope() { arena_.used_ = used_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t used_;
  };

 private:
  Buffer buffer_;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t high_water_ = 0;
};

}  // namespace pagoda

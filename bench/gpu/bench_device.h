// The device under a benchmark of kernels: its queue, memory with random contents, and a clock that sees what a recorded step
// would see: no launch gaps of the CPU, no data in the cache that would not be there. Used by all families of kernels_bench.cc.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "cuda/device.h"
#include "cuda/device_memory.h"
#include "report.h"

namespace pagoda::bench {

/// What random numbers memory is filled with.
enum class Fill : uint8_t {
  bytes,  ///< any bits
  bf16,   ///< normally distributed, about `scale` in size
  f16,    ///< the same
  f32,    ///< the same
  e4m3,   ///< codes of magnitudes below 2
};

/// random_fill.cu: fills `bytes` (a multiple of 4).
void random_fill(const cuda::Queue& queue, void* memory, size_t bytes, Fill fill, float scale, uint32_t seed);

class BenchDevice {
 public:
  /// Of one run of some work: puts run i into the queue and does not wait.
  using Work = std::function<void(int run)>;

  explicit BenchDevice(bool smoke);
  ~BenchDevice();
  BenchDevice(const BenchDevice&) = delete;
  BenchDevice& operator=(const BenchDevice&) = delete;

  bool smoke() const { return smoke_; }
  const cuda::Gpu& gpu() const { return gpu_; }
  const cuda::Queue& queue() const { return gpu_.queue; }

  /// 256-byte aligned; given back by `clear`.
  void* memory(size_t bytes);
  void* random(size_t bytes, Fill fill, float scale = 1);
  Tensor random_tensor(DType dtype, int64_t rows, int64_t cols);
  template <class T>
  T* array(const std::vector<T>& values) {
    return static_cast<T*>(upload(values.data(), values.size() * sizeof(T)));
  }
  void clear();

  /// So many sets of data of `bytes` do not fit in the cache together, twice over: a run that takes them in turn finds none
  /// there.
  int copies(size_t bytes) const;
  /// Recorded runs, one after another, the run's number counting through `num_different` sets of data.
  Timing time(int num_different, const Work& work);
  /// Work that cannot be recorded: each run stands behind a copy that is longer than the CPU takes to start it and leaves the
  /// cache full of other data. `after` ends a run on the host.
  Timing time_direct(const Work& work, const std::function<void()>& after);

 private:
  void* upload(const void* host, size_t bytes);
  double between(const std::function<void()>& before, const std::function<void()>& work);
  Timing summary(std::vector<double> microseconds) const;

  bool smoke_;
  cuda::Gpu gpu_;
  size_t cache_bytes_ = 0;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  cuda::DeviceMemory memory_;
  std::vector<Buffer> buffers_;
  Buffer long_copy_;  // two halves
  uint32_t seed_ = 1;
};

}  // namespace pagoda::bench

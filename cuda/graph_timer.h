// How long work takes on the GPU: without the time that the CPU needs to start it, as in a recorded step. Used by GemmTuner.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <limits>

namespace pagoda::cuda {

/// Owns two events of a stream that it does not own.
class GraphTimer {
 public:
  explicit GraphTimer(cudaStream_t stream);
  ~GraphTimer();
  GraphTimer(const GraphTimer&) = delete;
  GraphTimer& operator=(const GraphTimer&) = delete;

  struct Task {
    std::function<void(int run)> work;  ///< puts run i into the stream and does not wait
    /// So many runs should follow each other before one repeats what another did: then none finds its data in the cache.
    int num_different = 1;
    /// Work that in a first try takes longer, in microseconds, is not tried further.
    double limit = std::numeric_limits<double>::infinity();
  };
  /// Microseconds of one run, the median of several recorded rows of them. Throws DeviceError.
  double microseconds(const Task& task);

 private:
  double time(const std::function<void()>& work);

  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace pagoda::cuda

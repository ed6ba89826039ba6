// Looks through all weights of a checkpoint for numbers that no forward pass survives. For `enginectl models verify` and
// `enginectl doctor --check-weights`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "io/weight_source.h"

namespace pagoda {

/// A tensor with something wrong.
struct WeightFault {
  std::string tensor;
  int64_t num_nan = 0;
  int64_t num_inf = 0;
  int64_t first = -1;     ///< flat index of the first NaN or infinity; -1: none
  bool all_zero = false;  ///< a matrix without a single number other than 0
};

struct WeightScan {
  std::vector<WeightFault> faults;  ///< in order of the tensors' names
  int64_t num_tensors = 0;          ///< looked at
  int64_t num_skipped = 0;          ///< of integers, which cannot be NaN
  size_t bytes = 0;                 ///< looked at
};

/// Reads every tensor of floats once, quantised ones as what they decode to. Bound by reading: the pool's threads share out
/// rows. `progress` (may be empty) hears of bytes done, of how many, after each tensor.
WeightScan scan_weights(const WeightSource& source, ThreadPool& pool,
                        const std::function<void(size_t done, size_t total)>& progress);

}  // namespace pagoda

// The table of whole-row sampling passes, compiled once per ISA (sampling_{portable,avx2,avx512}.cc), used by sampling.cc.
#pragma once

#include <cstdint>

#include "backend/cpu/isa.h"

namespace pagoda::cpu {

constexpr int kNumBins = 2048;

/// `x` has n values. Keys order floats as unsigned integers (float_key of sampling_math.h).
struct SamplingKernels {
  /// Largest and smallest key of the row.
  void (*key_range)(const float* x, int64_t n, uint32_t& min_key, uint32_t& max_key);
  /// Sum of masses relative to `max`.
  uint64_t (*total_mass)(const float* x, int64_t n, float max);
  /// out[i] = mass of x[i] if its key is at least `min_key`, else 0.
  void (*masses)(const float* x, int64_t n, float max, uint32_t min_key, uint64_t* out);
  /// bins[i] = how far x[i] lies below `max` in steps of 1/64, at most kNumBins - 1.
  void (*bins)(const float* x, int64_t n, float max, uint16_t* out);
  /// Number of values larger than `value`.
  int64_t (*count_above)(const float* x, int64_t n, float value);
  /// out[i] = x[i] if bit i % 32 of mask[i / 32] is set, else -inf.
  void (*allowed)(const float* x, const uint32_t* mask, int64_t n, float* out);
  /// out[i] = x[i] / temperature.
  void (*scale)(const float* x, int64_t n, float temperature, float* out);
};

const SamplingKernels& sampling_kernels(Isa isa);

}  // namespace pagoda::cpu

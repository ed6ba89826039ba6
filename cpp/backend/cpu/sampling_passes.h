// Whole-row sampling passes as plain loops that the compiler vectorises. Included by sampling_{portable,avx2,avx512}.cc, each
// with its own instruction set, inside that file's anonymous namespace: define PAGODA_SAMPLING_TABLE first, the name of the
// table to make.
#include <limits>

#include "backend/cpu/sampling_kernels.h"
#include "backend/sampling_math.h"

namespace pagoda::cpu {
namespace {

void key_range_pass(const float* x, int64_t n, uint32_t& min_key, uint32_t& max_key) {
  uint32_t low = ~0u, high = 0u;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t key = float_key(x[i]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  min_key = low;
  max_key = high;
}

uint64_t total_mass_pass(const float* x, int64_t n, float max) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += fixed_mass(x[i], max);
  return sum;
}

void masses_pass(const float* x, int64_t n, float max, uint32_t min_key, uint64_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = fixed_mass(x[i], max) & (uint64_t{0} - uint64_t{float_key(x[i]) >= min_key});
}

void bins_pass(const float* x, int64_t n, float max, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float steps = (max - x[i]) * 64.0f;
    out[i] = static_cast<uint16_t>(
        static_cast<int32_t>(steps < static_cast<float>(kNumBins - 1) ? steps : static_cast<float>(kNumBins - 1)));
  }
}

int64_t count_above_pass(const float* x, int64_t n, float value) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += x[i] > value ? 1 : 0;
  return count;
}

void allowed_pass(const float* x, const uint32_t* mask, int64_t n, float* out) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  int64_t begin = 0;
  for (; begin + 32 <= n; begin += 32) {
    const uint32_t word = mask[begin / 32];
    for (int bit = 0; bit < 32; ++bit) out[begin + bit] = word & (1u << bit) ? x[begin + bit] : -kInfinity;
  }
  for (; begin < n; ++begin) out[begin] = mask[begin / 32] >> (begin % 32) & 1u ? x[begin] : -kInfinity;
}

void scale_pass(const float* x, int64_t n, float temperature, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] / temperature;
}

}  // namespace

const SamplingKernels& PAGODA_SAMPLING_TABLE();

const SamplingKernels& PAGODA_SAMPLING_TABLE() {
  static constexpr SamplingKernels table{key_range_pass,   total_mass_pass, masses_pass, bins_pass,
                                         count_above_pass, allowed_pass,    scale_pass};
  return table;
}

}  // namespace pagoda::cpu

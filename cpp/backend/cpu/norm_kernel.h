// RMS norm of one row, written once over the 16-lane type S. Bound by memory: it reads the row twice (the second time from L1).
#pragma once

#include "backend/cpu/simd.h"

namespace pagoda::cpu {

/// 1 / sqrt(mean + eps) from the 16 partial sums of squares of n elements.
template <class S>
[[gnu::always_inline]] inline float inverse_rms(typename S::Vec sums, int64_t n, float eps) {
  return 1.0f / __builtin_sqrtf(S::sum(sums) / static_cast<float>(n) + eps);
}

template <class S>
void rms_norm_row(float* out, const float* x, const float* weight, int64_t n, float eps) {
  typename S::Vec sums = S::zero();
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = load_some<S>(x + i, lanes);
    sums = S::fma(v, v, sums);
  });
  const typename S::Vec inverse = S::set(inverse_rms<S>(sums, n, eps));
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = S::mul(load_some<S>(x + i, lanes), inverse);
    store_some<S>(out + i, S::mul(v, load_some<S>(weight + i, lanes)), lanes);
  });
}

template <class S>
void add_rms_norm_row(float* out, float* residual, const float* x, const float* weight, int64_t n, float eps) {
  typename S::Vec sums = S::zero();
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = S::add(load_some<S>(residual + i, lanes), load_some<S>(x + i, lanes));
    store_some<S>(residual + i, v, lanes);
    sums = S::fma(v, v, sums);
  });
  const typename S::Vec inverse = S::set(inverse_rms<S>(sums, n, eps));
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = S::mul(load_some<S>(residual + i, lanes), inverse);
    store_some<S>(out + i, S::mul(v, load_some<S>(weight + i, lanes)), lanes);
  });
}

}  // namespace pagoda::cpu

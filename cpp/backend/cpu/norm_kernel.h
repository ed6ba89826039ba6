// Norms of one row, written once over the 16-lane type S. Bound by memory: they read the row two or three times, all but the
// first time from L1.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/simd.h"

namespace pagoda::cpu {

/// 1 / sqrt(mean + eps) from the 16 partial sums of squares of n elements.
template <class S>
[[gnu::always_inline]] inline float inverse_rms(typename S::Vec sums, int64_t n, float eps) {
  return 1.0f / __builtin_sqrtf(S::sum(sums) / static_cast<float>(n) + eps);
}

/// Layer norm. A mean in f32 can be wrong by more than the differences from it are large, so their own mean is taken too and
/// subtracted as well.
template <class S>
void layer_norm_row(float* out, const float* x, const Norm& norm, int64_t n) {
  using V = typename S::Vec;
  V sums = S::zero();
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) { sums = S::add(sums, load_some<S>(x + i, lanes)); });
  const V mean = S::set(S::sum(sums) / static_cast<float>(n));
  V rests = S::zero(), squares = S::zero();
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    V v = S::sub(load_some<S>(x + i, lanes), mean);
    if (lanes < 16) v = S::select(S::less(S::iota(), S::set(static_cast<float>(lanes))), v, S::zero());
    rests = S::add(rests, v);
    squares = S::fma(v, v, squares);
  });
  const float rest = S::sum(rests) / static_cast<float>(n);
  const float variance = S::sum(squares) / static_cast<float>(n) - rest * rest;  // below 0 by rounding; NaN stays NaN
  const V inverse = S::set(1.0f / __builtin_sqrtf((variance < 0 ? 0 : variance) + norm.eps));
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const V v = S::mul(S::sub(S::sub(load_some<S>(x + i, lanes), mean), S::set(rest)), inverse);
    const V bias = norm.bias ? load_some<S>(norm.bias + i, lanes) : S::zero();
    store_some<S>(out + i, S::fma(v, load_some<S>(norm.weight + i, lanes), bias), lanes);
  });
}

/// out = x * inverse * weight.
template <class S>
[[gnu::always_inline]] inline void scale_by_weight(float* out, const float* x, const float* weight, float inverse, int64_t n) {
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = S::mul(load_some<S>(x + i, lanes), S::set(inverse));
    store_some<S>(out + i, S::mul(v, load_some<S>(weight + i, lanes)), lanes);
  });
}

template <class S>
void norm_row(float* out, const float* x, const Norm& norm, int64_t n) {
  if (norm.kind == NormKind::layer) return layer_norm_row<S>(out, x, norm, n);
  typename S::Vec squares = S::zero();
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = load_some<S>(x + i, lanes);
    squares = S::fma(v, v, squares);
  });
  scale_by_weight<S>(out, x, norm.weight, inverse_rms<S>(squares, n, norm.eps), n);
}

template <class S>
void add_row(float* residual, const float* x, float scale, int64_t n) {
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    store_some<S>(residual + i, S::fma(S::set(scale), load_some<S>(x + i, lanes), load_some<S>(residual + i, lanes)), lanes);
  });
}

/// The squares of an rms norm are summed while the rows are added, in the order of norm_row: its bits are those of an addition
/// and a norm.
template <class S>
void add_norm_row(float* out, float* residual, const float* x, float scale, const Norm& norm, int64_t n) {
  if (norm.kind == NormKind::layer) {
    add_row<S>(residual, x, scale, n);
    return layer_norm_row<S>(out, residual, norm, n);
  }
  typename S::Vec squares = S::zero();
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const typename S::Vec v = S::fma(S::set(scale), load_some<S>(x + i, lanes), load_some<S>(residual + i, lanes));
    store_some<S>(residual + i, v, lanes);
    squares = S::fma(v, v, squares);
  });
  scale_by_weight<S>(out, residual, norm.weight, inverse_rms<S>(squares, n, norm.eps), n);
}

}  // namespace pagoda::cpu

// The gated activations of one row, written once over the 16-lane type S. Bound by the exponential: about 20 operations per 16
// elements.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/simd.h"

namespace pagoda::cpu {

/// x / (1 + e^-x).
template <class S>
[[gnu::always_inline]] inline typename S::Vec silu(typename S::Vec x) {
  return S::div(x, S::add(S::set(1.0f), exp<S>(S::sub(S::zero(), x))));
}

/// x / 2 * (1 + tanh(u)) = x / (1 + e^-2u) with u = sqrt(2 / pi) * (x + 0.044715 x^3).
template <class S>
[[gnu::always_inline]] inline typename S::Vec gelu_tanh(typename S::Vec x) {
  const typename S::Vec cubic = S::fma(S::mul(x, x), S::set(0.044715f), S::set(1.0f));
  const typename S::Vec minus_2u = S::mul(S::mul(x, cubic), S::set(-1.5957691216057308f));
  return S::div(x, S::add(S::set(1.0f), exp<S>(minus_2u)));
}

/// x / 2 * (1 + erf(x / sqrt(2))), without cancellation on either side.
template <class S>
[[gnu::always_inline]] inline typename S::Vec gelu(typename S::Vec x) {
  const typename S::Vec magnitude = S::max(S::sub(S::zero(), x), x);
  const typename S::Vec half_tail = S::mul(S::set(0.5f), erfc_positive<S>(S::mul(magnitude, S::set(0.70710678118654752f))));
  return S::mul(x, S::select(S::less(x, S::zero()), half_tail, S::sub(S::set(1.0f), half_tail)));
}

/// gpt-oss: g / (1 + e^(-1.702 g)) * (u + 1) with g clamped from above and u from both sides at 7.
template <class S>
[[gnu::always_inline]] inline typename S::Vec clamped_swiglu(typename S::Vec gate, typename S::Vec up) {
  using V = typename S::Vec;
  const V limit = S::set(7.0f), minus_limit = S::set(-7.0f);
  const V g = S::select(S::less(limit, gate), limit, gate);
  const V u = S::select(S::less(limit, up), limit, S::select(S::less(up, minus_limit), minus_limit, up));
  const V swish = S::div(g, S::add(S::set(1.0f), exp<S>(S::mul(g, S::set(-1.702f)))));
  return S::mul(swish, S::add(u, S::set(1.0f)));
}

/// max(x, 0); NaN stays NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Vec relu(typename S::Vec x) {
  return S::select(S::less(x, S::zero()), S::zero(), x);
}

template <class S, class Function>
[[gnu::always_inline]] inline void gate_row(float* out, const float* gate, const float* up, int64_t n, Function function) {
  for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    store_some<S>(out + i, S::mul(function(load_some<S>(gate + i, lanes)), load_some<S>(up + i, lanes)), lanes);
  });
}

template <class S>
void gated_activation_row(float* out, const float* gate, const float* up, int64_t n, Activation activation) {
  using V = typename S::Vec;
  switch (activation) {
    case Activation::silu:
      return gate_row<S>(out, gate, up, n, [](V x) __attribute__((always_inline)) { return silu<S>(x); });
    case Activation::gelu_tanh:
      return gate_row<S>(out, gate, up, n, [](V x) __attribute__((always_inline)) { return gelu_tanh<S>(x); });
    case Activation::gelu:
      return gate_row<S>(out, gate, up, n, [](V x) __attribute__((always_inline)) { return gelu<S>(x); });
    case Activation::relu:
      return gate_row<S>(out, gate, up, n, [](V x) __attribute__((always_inline)) { return relu<S>(x); });
    case Activation::clamped_swiglu:
      return for_vectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store_some<S>(out + i, clamped_swiglu<S>(load_some<S>(gate + i, lanes), load_some<S>(up + i, lanes)), lanes);
      });
  }
}

template <class S, class Function>
[[gnu::always_inline]] inline void map_row(float* x, int64_t n, Function function) {
  for_vectors(n, [&](int64_t i, int lanes)
                     __attribute__((always_inline)) { store_some<S>(x + i, function(load_some<S>(x + i, lanes)), lanes); });
}

/// x = activation(x); not for those that need a gate.
template <class S>
void activation_row(float* x, int64_t n, Activation activation) {
  using V = typename S::Vec;
  switch (activation) {
    case Activation::silu:
      return map_row<S>(x, n, [](V v) __attribute__((always_inline)) { return silu<S>(v); });
    case Activation::gelu_tanh:
      return map_row<S>(x, n, [](V v) __attribute__((always_inline)) { return gelu_tanh<S>(v); });
    case Activation::gelu:
      return map_row<S>(x, n, [](V v) __attribute__((always_inline)) { return gelu<S>(v); });
    case Activation::relu:
      return map_row<S>(x, n, [](V v) __attribute__((always_inline)) { return relu<S>(v); });
    case Activation::clamped_swiglu:
      return;
  }
}

/// x = factor * x, then, if cap > 0, cap * tanh(x / cap).
template <class S>
void scale_row(float* x, int64_t n, float factor, float cap) {
  using V = typename S::Vec;
  if (cap <= 0) return map_row<S>(x, n, [&](V v) __attribute__((always_inline)) { return S::mul(v, S::set(factor)); });
  map_row<S>(x, n, [&](V v) __attribute__((always_inline)) {
    return S::mul(S::set(cap), tanh<S>(S::div(S::mul(v, S::set(factor)), S::set(cap))));
  });
}

}  // namespace pagoda::cpu

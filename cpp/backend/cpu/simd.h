// What the kernel templates know about registers: 16 float lanes, S::Vec, whatever the instruction set S is, and the functions
// built on them. Kernels are written once over S; with S = Avx2 and S = Avx512 they give the same bits.
//
// S::kDots says whether S also has Pairs, two bf16 numbers in each lane, and dot (c + a.second * b.second + a.first * b.first);
// load_pairs, store_pairs, set_pair, store_for_dots; interleave and interleave_some, which pair two rows of bf16 bits or of
// int8_t (exact), a null row being zeros.
//
// S provides: zero, set, iota; load, load_n (first n lanes, the others 0), store, store_n, each for float, for bf16 bits
// (uint16_t) and for int8_t (stored rounded to nearest even; lanes must lie in [-128, 127]); add, sub, mul, div, fma (a * b +
// c); min, max (the second operand when one is NaN); less -> Mask, select(mask, if_set, if_clear); shift_to_exponent (bits <<
// 23); first_lane; sum and max_lane, which halve: lanes i and i + 8, then i and i + 4, i + 2, i + 1.
//
// Kernel code calls nothing but S and templates over S, and S is in an anonymous namespace: a function with external linkage
// could be emitted with AVX instructions here and then be linked into code that runs on every processor.
#pragma once

#include <cstdint>

namespace pagoda::cpu {

/// Calls body(vector index's first element, lanes) over n elements: full vectors of 16, then the tail.
template <class Body>
[[gnu::always_inline]] inline void for_vectors(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, 16);
  if (i < n) body(i, static_cast<int>(n - i));
}

/// load of 16 or the first n lanes.
template <class S, class T>
[[gnu::always_inline]] inline typename S::Vec load_some(const T* p, int n) {
  return n == 16 ? S::load(p) : S::load_n(p, n);
}

/// store of 16 or the first n lanes.
template <class S, class T>
[[gnu::always_inline]] inline void store_some(T* p, typename S::Vec a, int n) {
  if (n == 16) return S::store(p, a);
  S::store_n(p, a, n);
}

/// e^x with a relative error below 2e-7. Exactly 1 at 0 and exactly 0 below -87.33 (-infinity included); constant above 88.37;
/// NaN stays NaN. Range reduction to |r| <= ln(2)/2 with the integer in the low bits of `shifted`, then a polynomial (Cephes
/// expf).
template <class S>
[[gnu::always_inline]] inline typename S::Vec exp(typename S::Vec x) {
  using V = typename S::Vec;
  const V magic = S::set(12582912.0f + 127.0f);  // 1.5 * 2^23: adding it rounds to an integer; 127 is the exponent's bias
  const V clamped = S::min(S::set(88.37f), x);
  const V shifted = S::fma(clamped, S::set(1.44269504088896341f), magic);
  const V n = S::sub(shifted, magic);
  V r = S::fma(n, S::set(-0.693359375f), clamped);
  r = S::fma(n, S::set(2.12194440e-4f), r);
  V p = S::set(1.9875691500e-4f);
  p = S::fma(p, r, S::set(1.3981999507e-3f));
  p = S::fma(p, r, S::set(8.3334519073e-3f));
  p = S::fma(p, r, S::set(4.1665795894e-2f));
  p = S::fma(p, r, S::set(1.6666665459e-1f));
  p = S::fma(p, r, S::set(5.0000001201e-1f));
  p = S::fma(S::mul(r, r), p, S::add(r, S::set(1.0f)));
  return S::select(S::less(x, S::set(-87.33f)), S::zero(), S::mul(p, S::shift_to_exponent(shifted)));
}

/// e^x for x <= 0 with a relative error below 1e-5, far less than rounding to bf16 leaves. Exactly 1 at 0 and exactly 0 below
/// -87.33; NaN stays NaN. 2^f on [-1/2, 1/2] is a minimax polynomial of degree 4 with a relative error of 3e-6 and p(0) = 1.
template <class S>
[[gnu::always_inline]] inline typename S::Vec coarse_exp(typename S::Vec x) {
  using V = typename S::Vec;
  const V magic = S::set(12582912.0f + 127.0f), log2e = S::set(1.44269504088896341f);
  const V shifted = S::fma(x, log2e, magic);
  const V f = S::fma(x, log2e, S::sub(magic, shifted));
  V p = S::set(9.582851082e-3f);
  p = S::fma(p, f, S::set(5.590642989e-2f));
  p = S::fma(p, f, S::set(2.402409911e-1f));
  p = S::fma(p, f, S::set(6.931241751e-1f));
  p = S::fma(p, f, S::set(1.0f));
  return S::select(S::less(x, S::set(-87.33f)), S::zero(), S::mul(p, S::shift_to_exponent(shifted)));
}

/// tanh x with an absolute error below 3e-7.
template <class S>
[[gnu::always_inline]] inline typename S::Vec tanh(typename S::Vec x) {
  const typename S::Vec e = exp<S>(S::add(x, x));
  return S::sub(S::set(1.0f), S::div(S::set(2.0f), S::add(e, S::set(1.0f))));
}

/// 1 - erf(x) for x >= 0 with an absolute error below 2e-7 (Abramowitz and Stegun, 7.1.26).
template <class S>
[[gnu::always_inline]] inline typename S::Vec erfc_positive(typename S::Vec x) {
  using V = typename S::Vec;
  const V t = S::div(S::set(1.0f), S::fma(x, S::set(0.3275911f), S::set(1.0f)));
  V p = S::set(1.061405429f);
  p = S::fma(p, t, S::set(-1.453152027f));
  p = S::fma(p, t, S::set(1.421413741f));
  p = S::fma(p, t, S::set(-0.284496736f));
  p = S::fma(p, t, S::set(0.254829592f));
  return S::mul(S::mul(p, t), exp<S>(S::sub(S::zero(), S::mul(x, x))));
}

}  // namespace pagoda::cpu

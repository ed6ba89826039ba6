// Sixteen float lanes in four vectors of four, for processors without AVX2: every compiler that builds us has such vectors, and
// every 64-bit processor registers for them.
// fma rounds twice here (a library call per lane would be far slower), so results differ from the AVX ones in the last bits.
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.h"

namespace pagoda::cpu {
namespace {

/// The 16-lane type of the kernel templates; see simd.h for what the functions mean.
struct Portable {
  template <class T>
  using Quad [[gnu::vector_size(4 * sizeof(T))]] = T;
  struct Vec {
    Quad<float> v[4];
  };
  struct Mask {
    Quad<int32_t> v[4];
  };
  /// Register blocking of the attention kernels: rows x vectors of accumulators.
  static constexpr bool kDots = false;
  static constexpr bool kTiles = false;
  static constexpr int kRows = 2;
  static constexpr int kVecs = 1;

  static Vec zero() { return {}; }
  static Vec set(float x) {
    return map([=](int) { return Quad<float>{x, x, x, x}; });
  }
  static Vec iota() {
    return map([](int q) { return Quad<float>{0, 1, 2, 3} + static_cast<float>(4 * q); });
  }

  static Vec load(const float* p) {
    return map([=](int q) { return quad(p + 4 * q); });
  }
  static Vec load(const uint16_t* p) {
    return map([=](int q) { return as<float>(__builtin_convertvector(quad(p + 4 * q), Quad<uint32_t>) << 16); });
  }
  static Vec load(const int8_t* p) {
    return map([=](int q) { return __builtin_convertvector(quad(p + 4 * q), Quad<float>); });
  }
  template <class T>
  static Vec load_n(const T* p, int n) {
    T padded[16]{};
    for (int i = 0; i < n; ++i) padded[i] = p[i];
    return load(padded);
  }

  static void store(float* p, Vec a) { __builtin_memcpy(p, &a, sizeof a); }
  static void store_n(float* p, Vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = lane(a, i);
  }
  static void store(uint16_t* p, Vec a) { store_n(p, a, 16); }
  static void store_n(uint16_t* p, Vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = float_to_bf16(lane(a, i));
  }
  static void store(int8_t* p, Vec a) { store_n(p, a, 16); }
  /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  static void store_n(int8_t* p, Vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = static_cast<int8_t>(std::bit_cast<uint32_t>(lane(a, i) + 12582912.0f) & 0xffu);
  }

  static Vec add(Vec a, Vec b) {
    return map([&](int q) { return a.v[q] + b.v[q]; });
  }
  static Vec sub(Vec a, Vec b) {
    return map([&](int q) { return a.v[q] - b.v[q]; });
  }
  static Vec mul(Vec a, Vec b) {
    return map([&](int q) { return a.v[q] * b.v[q]; });
  }
  static Vec div(Vec a, Vec b) {
    return map([&](int q) { return a.v[q] / b.v[q]; });
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return map([&](int q) { return a.v[q] * b.v[q] + c.v[q]; });
  }
  static Vec min(Vec a, Vec b) {
    return map([&](int q) { return a.v[q] < b.v[q] ? a.v[q] : b.v[q]; });
  }
  static Vec max(Vec a, Vec b) {
    return map([&](int q) { return larger(a.v[q], b.v[q]); });
  }

  static Mask less(Vec a, Vec b) {
    Mask out;
    for (int q = 0; q < 4; ++q) out.v[q] = a.v[q] < b.v[q];
    return out;
  }
  static Vec select(Mask m, Vec a, Vec b) {
    return map([&](int q) { return m.v[q] ? a.v[q] : b.v[q]; });
  }

  static Vec shift_to_exponent(Vec a) {
    return map([&](int q) { return as<float>(as<uint32_t>(a.v[q]) << 23); });
  }

  static float first_lane(Vec a) { return a.v[0][0]; }
  static float sum(Vec a) {
    const Quad<float> four = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    return (four[0] + four[2]) + (four[1] + four[3]);
  }
  static float max_lane(Vec a) {
    const Quad<float> four = larger(larger(a.v[0], a.v[2]), larger(a.v[1], a.v[3]));
    const float even = four[0] > four[2] ? four[0] : four[2], odd = four[1] > four[3] ? four[1] : four[3];
    return even > odd ? even : odd;
  }

 private:
  template <class Lanes>
  static Vec map(Lanes lanes) {
    Vec out;
    for (int q = 0; q < 4; ++q) out.v[q] = lanes(q);
    return out;
  }

  static float lane(const Vec& a, int i) { return a.v[i / 4][i % 4]; }
  static Quad<float> larger(Quad<float> a, Quad<float> b) { return a > b ? a : b; }

  template <class T>
  static Quad<T> quad(const T* p) {
    Quad<T> out;
    __builtin_memcpy(&out, p, sizeof out);
    return out;
  }
  template <class T, class From>
  static Quad<T> as(From bits) {
    return __builtin_bit_cast(Quad<T>, bits);
  }
};

}  // namespace
}  // namespace pagoda::cpu

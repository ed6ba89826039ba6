// Sixteen float lanes in an array, for processors without AVX2: plain loops that the compiler vectorises as it can.
// fma rounds twice here (a library call per lane would be far slower), so results differ from the AVX ones in the last bits.
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.h"

namespace pagoda::cpu {
namespace {

/// The 16-lane type of the kernel templates; see simd.h for what the functions mean.
struct Portable {
  struct Vec {
    float v[16];
  };
  struct Mask {
    bool v[16];
  };
  /// Register blocking of the attention kernels: rows x vectors of accumulators.
  static constexpr bool kDots = false;
  static constexpr bool kTiles = false;
  static constexpr int kRows = 2;
  static constexpr int kVecs = 1;

  static Vec zero() { return {}; }
  static Vec set(float x) {
    return map([=](int) { return x; });
  }
  static Vec iota() {
    return map([](int i) { return static_cast<float>(i); });
  }

  static Vec load(const float* p) {
    return map([=](int i) { return p[i]; });
  }
  static Vec load_n(const float* p, int n) {
    return map([=](int i) { return i < n ? p[i] : 0.0f; });
  }
  static Vec load(const uint16_t* p) {
    return map([=](int i) { return bf16_to_float(p[i]); });
  }
  static Vec load_n(const uint16_t* p, int n) {
    return map([=](int i) { return i < n ? bf16_to_float(p[i]) : 0.0f; });
  }
  static Vec load(const int8_t* p) {
    return map([=](int i) { return static_cast<float>(p[i]); });
  }
  static Vec load_n(const int8_t* p, int n) {
    return map([=](int i) { return i < n ? static_cast<float>(p[i]) : 0.0f; });
  }

  static void store(float* p, Vec a) { store_n(p, a, 16); }
  static void store_n(float* p, Vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.v[i];
  }
  static void store(uint16_t* p, Vec a) { store_n(p, a, 16); }
  static void store_n(uint16_t* p, Vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = float_to_bf16(a.v[i]);
  }
  static void store(int8_t* p, Vec a) { store_n(p, a, 16); }
  /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  static void store_n(int8_t* p, Vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = static_cast<int8_t>(std::bit_cast<uint32_t>(a.v[i] + 12582912.0f) & 0xffu);
  }

  static Vec add(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Vec sub(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  static Vec mul(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  static Vec div(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static Vec min(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vec max(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }

  static Mask less(Vec a, Vec b) {
    Mask out;
    for (int i = 0; i < 16; ++i) out.v[i] = a.v[i] < b.v[i];
    return out;
  }
  static Vec select(Mask m, Vec a, Vec b) {
    return map([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
  }

  static Vec shift_to_exponent(Vec a) {
    return map([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(a.v[i]) << 23); });
  }

  static float first_lane(Vec a) { return a.v[0]; }
  static float sum(Vec a) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    }
    return a.v[0];
  }
  static float max_lane(Vec a) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
  }

 private:
  template <class Lane>
  static Vec map(Lane lane) {
    Vec out;
    for (int i = 0; i < 16; ++i) out.v[i] = lane(i);
    return out;
  }
};

}  // namespace
}  // namespace pagoda::cpu

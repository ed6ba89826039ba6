// A histogram over fixed bounds, as Prometheus has them, without heap memory: it is copied with the counters after each step.
// The bounds are part of the type. Kept by the engine thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace pagoda {

/// `Bounds` is a constexpr std::array of doubles, ascending.
template <const auto& Bounds>
struct Histogram {
  static constexpr const auto& kBounds = Bounds;

  std::array<int64_t, Bounds.size() + 1> counts{};  ///< [i]: values in (bounds[i - 1], bounds[i]]; the last: above all bounds
  double sum = 0;                                   ///< of all values

  void observe(double value) {
    const auto bucket = std::ranges::lower_bound(Bounds, value) - Bounds.begin();
    ++counts[static_cast<size_t>(bucket)];
    sum += value;
  }
  Histogram& operator+=(const Histogram& other) {
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
    sum += other.sum;
    return *this;
  }
};

template <class T>
constexpr bool is_histogram = false;
template <const auto& Bounds>
constexpr bool is_histogram<Histogram<Bounds>> = true;

/// Bounds in seconds: of waiting for a first token, of the time between two tokens, of whole requests and of steps.
inline constexpr std::array kFirstTokenBounds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                                 1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
inline constexpr std::array kTokenBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,  0.15, 0.2,  0.3,
                                            0.4,   0.5,    0.75,  1.0,  2.5,   5.0,  7.5,   10.0, 20.0, 40.0, 80.0};
inline constexpr std::array kRequestBounds = {0.01, 0.03, 0.1,  0.3,  0.5,  0.8,  1.0,   1.5,   2.0,   2.5,   5.0,    10.0,
                                              15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
inline constexpr std::array kStepBounds = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                           0.2,    0.5,   1.0,   2.0,   5.0,  10.0, 30.0};
/// Bounds of counts.
inline constexpr std::array kStepTokenBounds = {1.0,   8.0,    16.0,   32.0,   64.0,   128.0,   256.0,
                                                512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0};
inline constexpr std::array kBatchBounds = {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0};
inline constexpr std::array kChoiceBounds = {1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0};
inline constexpr std::array kLengthBounds = {1.0,     2.0,      5.0,      10.0,     20.0,   50.0,    100.0,
                                             200.0,   500.0,    1000.0,   2000.0,   5000.0, 10000.0, 20000.0,
                                             50000.0, 100000.0, 200000.0, 500000.0, 1e6};

}  // namespace pagoda

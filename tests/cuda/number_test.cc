// The small floats of the kernels, all codes of them, against doubles.
#include "cuda/number.cuh"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace pagoda::cuda {
namespace {

/// A float of 1 sign bit, `exponent_bits` and `mantissa_bits`.
struct Kind {
  int exponent_bits, mantissa_bits;
  bool has_infinity;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int num_codes() const { return 2 << (exponent_bits + mantissa_bits); }
  int sign_bit() const { return num_codes() / 2; }

  double value(int code) const {
    const int exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1), mantissa = code & ((1 << mantissa_bits) - 1);
    const double sign = code & sign_bit() ? -1 : 1;
    const bool top = exponent == (1 << exponent_bits) - 1;
    if (has_infinity && top) return mantissa ? NAN : sign * INFINITY;
    if (top && mantissa == (1 << mantissa_bits) - 1) return NAN;
    const double fraction = std::ldexp(mantissa, -mantissa_bits);
    return sign * (exponent ? std::ldexp(1 + fraction, exponent - bias()) : std::ldexp(fraction, 1 - bias()));
  }
};
constexpr Kind kBf16{8, 7, true}, kF16{5, 10, true}, kE4m3{4, 3, false};

template <class T>
T of_code(int code) {
  return {static_cast<decltype(T::bits)>(code)};
}

template <class T>
void expect_exact_values(const Kind& kind) {
  for (int code = 0; code < kind.num_codes(); ++code) {
    const double expected = kind.value(code), got = to_float(of_code<T>(code));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << code;
    } else {
      EXPECT_EQ(got, expected) << code;
      EXPECT_EQ(std::signbit(got), std::signbit(expected)) << code;
    }
  }
}

TEST(Number, every_code_has_its_value) {
  expect_exact_values<Bf16>(kBf16);
  expect_exact_values<F16>(kF16);
  expect_exact_values<E4m3>(kE4m3);
}

TEST(Number, every_value_has_its_code) {
  const auto round_trip = []<class T>(const Kind& kind, T) {
    for (int code = 0; code < kind.num_codes(); ++code) {
      if (std::isnan(kind.value(code))) continue;
      EXPECT_EQ(from_float<T>(to_float(of_code<T>(code))).bits, code);
    }
  };
  round_trip(kBf16, Bf16{});
  round_trip(kF16, F16{});
  round_trip(kE4m3, E4m3{});
}

/// Every point halfway between neighbours goes to the even one, the floats beside it to the nearer one.
template <class T>
void expect_rounding(const Kind& kind, int largest) {
  for (int code = 0; code < largest; ++code) {
    const float middle = static_cast<float>((kind.value(code) + kind.value(code + 1)) / 2);  // exact in f32
    const int even = code % 2 ? code + 1 : code;
    for (int sign : {0, kind.sign_bit()}) {
      const float s = sign ? -1.0f : 1.0f;
      ASSERT_EQ(from_float<T>(s * middle).bits, even | sign) << middle;
      ASSERT_EQ(from_float<T>(s * std::nextafter(middle, 0.0f)).bits, code | sign) << middle;
      ASSERT_EQ(from_float<T>(s * std::nextafter(middle, INFINITY)).bits, (code + 1) | sign) << middle;
    }
  }
}

TEST(Number, rounds_to_nearest_even_between_all_neighbours) {
  expect_rounding<Bf16>(kBf16, 0x7f7f);
  expect_rounding<F16>(kF16, 0x7bff);
  expect_rounding<E4m3>(kE4m3, 0x7e);
}

TEST(Number, e4m3_takes_the_largest_finite_value_beyond_its_range) {
  for (float value : {448.0f, 456.0f, 463.9f, 464.0f, 480.0f, 1e9f, 3e38f, INFINITY}) {
    EXPECT_EQ(from_float<E4m3>(value).bits, 0x7e) << value;
    EXPECT_EQ(from_float<E4m3>(-value).bits, 0xfe) << value;
  }
}

TEST(Number, sixteen_bits_become_infinite_beyond_their_range) {
  for (float value : {65520.0f, 1e9f, INFINITY}) {
    EXPECT_EQ(from_float<F16>(value).bits, 0x7c00) << value;
    EXPECT_EQ(from_float<F16>(-value).bits, 0xfc00) << value;
  }
  EXPECT_EQ(from_float<F16>(65519.0f).bits, 0x7bff);
  EXPECT_EQ(from_float<Bf16>(3.4e38f).bits, 0x7f80);
  EXPECT_EQ(from_float<Bf16>(-INFINITY).bits, 0xff80);
}

TEST(Number, nan_stays_nan) {
  for (uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffffffffu}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(to_float(from_float<Bf16>(nan))));
    EXPECT_TRUE(std::isnan(to_float(from_float<F16>(nan))));
    EXPECT_TRUE(std::isnan(to_float(from_float<E4m3>(nan))));
  }
}

TEST(Number, the_f16_of_an_e4m3_is_its_value) {
  for (int code = 0; code < 256; ++code) {
    const double expected = kE4m3.value(code), got = gpu::f16_to_float(e4m3_to_f16_bits(static_cast<uint8_t>(code)));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << code;
    } else {
      EXPECT_EQ(got, expected) << code;
      EXPECT_EQ(std::signbit(got), std::signbit(expected)) << code;
    }
  }
}

TEST(Number, random_floats_go_to_the_nearest_e4m3) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 20000; ++trial) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(value)) continue;
    const double got = to_float(from_float<E4m3>(value));
    const double clamped = std::min(std::max(static_cast<double>(value), -448.0), 448.0);
    for (int code = 0; code < 256; ++code) {
      const double other = kE4m3.value(code);
      if (std::isnan(other)) continue;
      ASSERT_LE(std::abs(got - clamped), std::abs(other - clamped)) << value;
    }
  }
}

TEST(Number, vectors_hold_their_elements_in_order) {
  const float values[8] = {0, -1, 2.5f, 1e-20f, -3e10f, 0.25f, 7, -0.0f};
  float back[8];
  unpack_bf16x8(pack_bf16x8(values), back);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(back[i], to_float(from_float<Bf16>(values[i])));
    EXPECT_EQ(std::signbit(back[i]), std::signbit(values[i]));
  }
}

}  // namespace
}  // namespace pagoda::cuda

// Encoding against blocks worked out by hand. tests/e2e/test_weight_formats.py compares with the `gguf` package.
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "core/dtype.h"
#include "io/dequantise.h"
#include "io/quantise.h"
#include "io_test_files.h"

namespace pagoda {
namespace {

std::string encode(WeightFormat format, const std::vector<float>& values) {
  const auto cols = static_cast<int64_t>(values.size());
  std::string bytes(1 + weight_row_bytes(format, cols), '#');  // rows need no alignment
  quantise_row(format, values.data(), cols, reinterpret_cast<std::byte*>(bytes.data()) + 1);
  return bytes.substr(1);
}

std::vector<float> decode(WeightFormat format, const std::string& bytes, size_t cols) {
  std::vector<float> out(cols);
  dequantise_row(format, reinterpret_cast<const std::byte*>(bytes.data()), static_cast<int64_t>(cols), out.data());
  return out;
}

/// 32 zeros but for the first values.
std::vector<float> block_of(std::vector<float> first) {
  first.resize(32);
  return first;
}

std::string f16(float value) { return raw(float_to_f16(value)); }

TEST(Quantise, plain_formats_are_rounded_value_by_value) {
  EXPECT_EQ(encode(WeightFormat::f32, {1.5f, -0.1f}), raw(1.5f) + raw(-0.1f));
  EXPECT_EQ(encode(WeightFormat::f16, {1.0f, 1e6f}), raw(uint16_t{0x3c00}) + raw(uint16_t{0x7c00}));
  EXPECT_EQ(encode(WeightFormat::bf16, {-3.0f}), raw(float_to_bf16(-3.0f)));
}

TEST(Quantise, q8_0_puts_the_largest_magnitude_at_127) {
  const std::string block = encode(WeightFormat::q8_0, block_of({-254, 127, 1, -1, 0.9f}));
  EXPECT_EQ(block.substr(0, 7), f16(2.0f) + "\x81\x40\x01" + "\xff" + std::string(1, '\0'));  // halves go away from zero
}

TEST(Quantise, q4_0_and_q5_0_give_the_extreme_value_code_zero) {
  const std::vector<float> values = block_of({8, -8, 4, 0});
  const std::string q4 = encode(WeightFormat::q4_0, values);
  EXPECT_EQ(q4.substr(0, 6), f16(-1.0f) + "\x80\x8f\x84\x88");  // the code 16 of -8 does not exist
  const std::string q5 = encode(WeightFormat::q5_0, block_of({16, -16, 8, 0}));
  EXPECT_EQ(q5.substr(0, 6), f16(-1.0f) + raw(0xfffffffau));  // all but values 0 and 2 have the fifth bit
  EXPECT_EQ(q5.substr(6, 4), std::string("\x00\x0f\x08\x00", 4));
}

TEST(Quantise, q4_1_and_q5_1_span_from_the_smallest_to_the_largest) {
  std::vector<float> values(32, 1.0f);
  values[0] = 16;
  values[31] = 5.4f;
  const std::string q4 = encode(WeightFormat::q4_1, values);
  EXPECT_EQ(q4, f16(1.0f) + f16(1.0f) + "\x0f" + std::string(14, '\0') + "\x40");
  values[0] = 32;
  const std::string q5 = encode(WeightFormat::q5_1, values);
  EXPECT_EQ(q5, f16(1.0f) + f16(1.0f) + raw(uint32_t{1}) + "\x0f" + std::string(14, '\0') + "\x40");
}

TEST(Quantise, f8_e4m3_and_int8_have_scales_that_f16_could_not_hold) {
  EXPECT_EQ(encode(WeightFormat::f8_e4m3, block_of({-448e10f, 224e10f})).substr(0, 7),
            raw(1e10f) + "\xfe\x76" + std::string(1, '\0'));
  EXPECT_EQ(encode(WeightFormat::int8, block_of({-127e-20f, 63.6e-20f})).substr(0, 6), raw(127e-20f / 127) + "\x81\x40");
}

TEST(Quantise, int4_keeps_zero_exact_between_the_extremes) {
  const auto zero_of = [](const std::string& block) {
    float zero = 0;
    std::memcpy(&zero, block.data() + 4, 4);
    return zero;
  };
  EXPECT_EQ(zero_of(encode(WeightFormat::int4, block_of({-3, 12}))), 3.0f);
  EXPECT_EQ(zero_of(encode(WeightFormat::int4, block_of({15}))), 0.0f);
  EXPECT_EQ(zero_of(encode(WeightFormat::int4, std::vector<float>(32, -15.0f))), 15.0f);
  EXPECT_EQ(encode(WeightFormat::int4, block_of({-3, 12})), raw(1.0f) + raw(3.0f) + "\x30\x3f" + std::string(14, '\x33'));
}

constexpr std::array kBlocks = {WeightFormat::q8_0, WeightFormat::q4_0,    WeightFormat::q4_1, WeightFormat::q5_0,
                                WeightFormat::q5_1, WeightFormat::f8_e4m3, WeightFormat::int8, WeightFormat::int4};

TEST(Quantise, a_block_of_zeros_stays_zero) {
  for (WeightFormat format : kBlocks) {
    EXPECT_EQ(decode(format, encode(format, block_of({})), 32), block_of({})) << weight_format_info(format).name;
  }
}

TEST(Quantise, numbers_below_the_smallest_scale_become_zero_or_themselves) {
  for (WeightFormat format : kBlocks) {
    for (float value : {std::numeric_limits<float>::denorm_min(), 1e-40f, 1e-38f}) {
      for (float got : decode(format, encode(format, block_of({value, -value})), 32)) {
        EXPECT_LE(std::abs(got), value * 1.1f) << weight_format_info(format).name;
      }
    }
  }
}

TEST(Quantise, a_block_that_is_not_finite_or_spans_more_than_a_float_becomes_nans) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> bad = {{std::nanf("")}, {1, kInfinity}, {-kInfinity}, {3e38f, -3e38f}};
  for (WeightFormat format : kBlocks) {
    for (const auto& values : bad) {
      for (float got : decode(format, encode(format, block_of(values)), 32)) {
        EXPECT_TRUE(std::isnan(got)) << weight_format_info(format).name;
      }
    }
  }
}

TEST(Quantise, a_format_without_a_plain_rounding_is_refused) {
  std::vector<float> values(256);
  std::array<std::byte, 256> out{};
  EXPECT_FALSE(can_quantise(WeightFormat::q4_k));
  EXPECT_EQ(error_of([&] { quantise_row(WeightFormat::q4_k, values.data(), 256, out.data()); }),
            "weights cannot be converted to q4_k, only to f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, f8_e4m3, int8, int4");
  EXPECT_THROW(quantise_row(WeightFormat::q8_0, values.data(), 31, out.data()), InternalError);
}

}  // namespace
}  // namespace pagoda

// Decoding of every stored format against values worked out by the definition in core/weight_format.h.
#include <cmath>
#include <vector>

#include "core/dtype.h"
#include "io/dequantise.h"
#include "io_test_files.h"

namespace pagoda {
namespace {

std::vector<float> decode(WeightFormat format, const std::string& bytes, int64_t cols) {
  EXPECT_EQ(bytes.size(), weight_row_bytes(format, cols));
  const std::string shifted = "#" + bytes;  // rows need no alignment
  std::vector<float> out(static_cast<size_t>(cols));
  dequantise_row(format, reinterpret_cast<const std::byte*>(shifted.data()) + 1, cols, out.data());
  return out;
}

/// 16 bytes of nibbles: byte i holds i in its low half and 15 - i in its high half.
std::string nibbles() {
  std::string bytes;
  for (int i = 0; i < 16; ++i) bytes += static_cast<char>(i | (15 - i) << 4);
  return bytes;
}

TEST(Dequantise, plain_formats_are_converted_value_by_value) {
  EXPECT_EQ(decode(WeightFormat::f32, raw(1.5f) + raw(-0.1f), 2), (std::vector<float>{1.5f, -0.1f}));
  EXPECT_EQ(decode(WeightFormat::bf16, raw(float_to_bf16(-3.0f)) + raw(uint16_t{0x0001}), 2),
            (std::vector<float>{-3.0f, 0x1p-133f}));
  EXPECT_EQ(decode(WeightFormat::f16, raw(uint16_t{0x3c01}) + raw(uint16_t{0x8001}), 2),
            (std::vector<float>{1.0f + 0x1p-10f, -0x1p-24f}));
}

TEST(Dequantise, non_finite_values_stay_what_they_are) {
  const auto out = decode(WeightFormat::f16, raw(uint16_t{0x7c00}) + raw(uint16_t{0x7e00}), 2);
  EXPECT_TRUE(std::isinf(out[0]));
  EXPECT_TRUE(std::isnan(out[1]));
}

TEST(Dequantise, q8_0_is_scale_times_signed_byte) {
  std::string block = raw(float_to_f16(0.25f));
  for (int i = 0; i < 32; ++i) block += static_cast<char>(i * 8 - 128);
  const auto out = decode(WeightFormat::q8_0, block, 32);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 0.25f * static_cast<float>(i * 8 - 128));
}

TEST(Dequantise, q4_0_takes_low_nibbles_first_and_subtracts_eight) {
  const auto out = decode(WeightFormat::q4_0, raw(float_to_f16(-2.0f)) + nibbles(), 32);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[static_cast<size_t>(i)], -2.0f * static_cast<float>(i - 8));
    EXPECT_EQ(out[static_cast<size_t>(16 + i)], -2.0f * static_cast<float>(15 - i - 8));
  }
}

TEST(Dequantise, q4_1_adds_the_minimum) {
  const auto out = decode(WeightFormat::q4_1, raw(float_to_f16(0.5f)) + raw(float_to_f16(-3.0f)) + nibbles(), 32);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[static_cast<size_t>(i)], 0.5f * static_cast<float>(i) - 3.0f);
    EXPECT_EQ(out[static_cast<size_t>(16 + i)], 0.5f * static_cast<float>(15 - i) - 3.0f);
  }
}

TEST(Dequantise, every_block_of_a_row_has_its_own_scale) {
  const std::string row = raw(float_to_f16(1.0f)) + nibbles() + raw(float_to_f16(4.0f)) + nibbles();
  const auto out = decode(WeightFormat::q4_0, row, 64);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(out[32 + i], 4.0f * out[i]);
}

TEST(Dequantise, a_row_that_cuts_a_block_is_a_bug_of_the_caller) {
  float out = 0;
  EXPECT_THROW(dequantise_row(WeightFormat::q8_0, nullptr, 31, &out), InternalError);
}

}  // namespace
}  // namespace pagoda

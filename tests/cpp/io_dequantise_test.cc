// Decoding of every stored format against values worked out by hand from the definitions in core/weight_format.h and
// io/block_decoders_*.cc. tests/e2e/test_weight_formats.py compares with the `gguf` package on random bytes.
#include <cmath>
#include <utility>
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

TEST(Dequantise, q5_takes_the_fifth_bit_of_each_value_from_one_number) {
  const uint32_t high = 1u << 0 | 1u << 17;  // of values 0 and 17, whose nibbles are 0 and 14
  auto out = decode(WeightFormat::q5_0, raw(float_to_f16(2.0f)) + raw(high) + nibbles(), 32);
  EXPECT_EQ(out[0], 2.0f * (16 - 16));
  EXPECT_EQ(out[1], 2.0f * (1 - 16));
  EXPECT_EQ(out[17], 2.0f * (14 + 16 - 16));
  EXPECT_EQ(out[31], 2.0f * (0 - 16));
  out = decode(WeightFormat::q5_1, raw(float_to_f16(2.0f)) + raw(float_to_f16(0.5f)) + raw(high) + nibbles(), 32);
  EXPECT_EQ(out[0], 2.0f * 16 + 0.5f);
  EXPECT_EQ(out[1], 2.0f * 1 + 0.5f);
  EXPECT_EQ(out[17], 2.0f * 30 + 0.5f);
}

TEST(Dequantise, iq4_nl_looks_its_uneven_steps_up) {
  const auto out = decode(WeightFormat::iq4_nl, raw(float_to_f16(0.5f)) + nibbles(), 32);
  EXPECT_EQ(out[0], -63.5f);
  EXPECT_EQ(out[8], 0.5f);
  EXPECT_EQ(out[15], 56.5f);
  EXPECT_EQ(out[16], 56.5f);
  EXPECT_EQ(out[31], -63.5f);
}

TEST(Dequantise, mxfp4_has_a_power_of_two_as_scale) {
  auto out = decode(WeightFormat::mxfp4, std::string("\x80") + nibbles(), 32);  // 2^(128 - 128)
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 16),
            (std::vector<float>{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}));
  EXPECT_FALSE(std::signbit(out[8]));
  out = decode(WeightFormat::mxfp4, std::string(1, '\0') + nibbles(), 32);
  EXPECT_EQ(out[1], 0x1p-128f);
  out = decode(WeightFormat::mxfp4, std::string("\x01") + nibbles(), 32);
  EXPECT_EQ(out[1], 0x1p-127f);
  out = decode(WeightFormat::mxfp4, std::string("\xff") + nibbles(), 32);
  EXPECT_EQ(out[1], 0x1p127f);
}

TEST(Dequantise, f8_e4m3_has_small_steps_near_zero_and_no_infinity) {
  std::string block = raw(2.0f);
  for (int code : {0x00, 0x80, 0x01, 0x07, 0x08, 0x38, 0xb8, 0x3c, 0x7e, 0xfe, 0x7f, 0xff}) block += static_cast<char>(code);
  const auto out = decode(WeightFormat::f8_e4m3, block + std::string(20, '\0'), 32);
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 10),
            (std::vector<float>{0, 0, 2 * 0x1p-9f, 2 * 7 * 0x1p-9f, 2 * 0x1p-6f, 2, -2, 3, 896, -896}));
  EXPECT_TRUE(std::signbit(out[1]));
  EXPECT_TRUE(std::isnan(out[10]));
  EXPECT_TRUE(std::isnan(out[11]));
}

TEST(Dequantise, int8_and_int4_have_f32_scales_and_int4_a_zero_point) {
  std::string block = raw(1e-10f);
  for (int i = 0; i < 32; ++i) block += static_cast<char>(i * 8 - 128);
  EXPECT_EQ(decode(WeightFormat::int8, block, 32)[1], 1e-10f * -120);
  const auto out = decode(WeightFormat::int4, raw(0.5f) + raw(10.0f) + nibbles(), 32);
  EXPECT_EQ(out[0], 0.5f * -10);
  EXPECT_EQ(out[15], 0.5f * 5);
  EXPECT_EQ(out[16], 0.5f * 5);
  EXPECT_EQ(out[31], 0.5f * -10);
}

/// A block of zeros in which some bytes are set: {place, value}.
std::string sparse(size_t bytes, const std::vector<std::pair<size_t, int>>& set) {
  std::string block(bytes, '\0');
  for (const auto& [place, value] : set) block[place] = static_cast<char>(value);
  return block;
}

constexpr int kOne = 0x3c;    // the upper byte of 1.0 in f16, whose lower byte is 0
constexpr int kTwo = 0x40;    // of 2.0
constexpr int kThree = 0x42;  // of 3.0

TEST(Dequantise, q2_k_has_a_scale_and_a_minimum_for_every_16_values) {
  // Group 3 is values 48 to 63: the second 2 bits of bytes 16 to 31 of the codes.
  const auto out = decode(WeightFormat::q2_k, sparse(84, {{3, 0x25}, {16 + 16, 0x0c}, {81, kOne}, {83, kThree}}), 256);
  EXPECT_EQ(out[48], 5 * 3 - 3.0f * 2);
  EXPECT_EQ(out[49], -6.0f);
  EXPECT_EQ(out[64], 0.0f);
}

TEST(Dequantise, q3_k_subtracts_four_where_the_third_bit_is_clear) {
  // Group 9 is values 144 to 159. Its scale: upper nibble of byte 1 and bits 4-5 of byte 8 + 1 of the packed scales.
  const auto out = decode(WeightFormat::q3_k,
                          sparse(110, {{16, 1 << 4}, {32 + 32 + 16, 0x02}, {96 + 1, 0x70}, {96 + 9, 0x20}, {109, kTwo}}), 256);
  EXPECT_EQ(out[144], 2.0f * (0x27 - 32) * 2);  // codes 2, third bit set
  EXPECT_EQ(out[145], 2.0f * (0x27 - 32) * -4);
  EXPECT_EQ(out[0], 2.0f * -32 * -4);
}

TEST(Dequantise, q4_k_and_q5_k_keep_the_upper_bits_of_later_scales_with_the_first) {
  // Group 6 is values 192 to 223: low halves of nibble bytes 96 to 127. Its scale is the low nibble of byte 10 of the packed
  // scales and the top bits of byte 2, its minimum the upper nibble of byte 10 and the top bits of byte 6.
  const std::vector<std::pair<size_t, int>> head = {{1, kTwo}, {3, kThree}, {4 + 2, 0xc5}, {4 + 6, 0x46}, {4 + 10, 0x21}};
  auto bytes = head;
  bytes.insert(bytes.end(), {{16 + 96 + 7, 0x0b}});
  auto out = decode(WeightFormat::q4_k, sparse(144, bytes), 256);
  EXPECT_EQ(out[199], 2.0f * 0x31 * 11 - 3.0f * 0x12);
  EXPECT_EQ(out[198], -3.0f * 0x12);
  EXPECT_EQ(out[64], -3.0f * 6);
  bytes = head;
  bytes.insert(bytes.end(), {{16 + 7, 1 << 6}, {48 + 96 + 7, 0x0b}});
  out = decode(WeightFormat::q5_k, sparse(176, bytes), 256);
  EXPECT_EQ(out[199], 2.0f * 0x31 * 27 - 3.0f * 0x12);
}

TEST(Dequantise, q6_k_has_signed_scales) {
  // Value 230 is in group 14: the high half of nibble byte 64 + 38, and bits 6-7 of byte 32 + 6 of the upper bits.
  const auto out =
      decode(WeightFormat::q6_k, sparse(210, {{64 + 38, 0x90}, {128 + 32 + 6, 0xc0}, {192 + 14, -5}, {209, kTwo}}), 256);
  EXPECT_EQ(out[230], 2.0f * -5 * (0x39 - 32));
  EXPECT_EQ(out[231], 2.0f * -5 * -32);
  EXPECT_EQ(out[0], 0.0f);
}

TEST(Dequantise, iq4_xs_puts_its_scales_together_from_two_places) {
  // Group 5: upper nibble of byte 2 of the low parts, bits 10-11 of the high parts; value 160 + 18 in a high half.
  const auto out = decode(WeightFormat::iq4_xs, sparse(136, {{1, kTwo}, {3, 0x08}, {4 + 2, 0x30}, {8 + 80 + 2, 0xf0}}), 256);
  EXPECT_EQ(out[178], 2.0f * (0x23 - 32) * 113);
  EXPECT_EQ(out[160], 2.0f * (0x23 - 32) * -127);
  EXPECT_EQ(out[0], 2.0f * -32 * -127);
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

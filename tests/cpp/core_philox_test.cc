// Philox against Random123's published vectors, and its 64-bit form.
#include <gtest/gtest.h>

#include <cmath>

#include "core/philox.h"

namespace pagoda {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, agrees_with_the_random123_vectors) {
  const uint32_t ones = 0xffffffffu;
  EXPECT_EQ(philox4x32({0, 0}, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({ones, ones}, {ones, ones, ones, ones}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, the_64_bit_form_is_words_one_and_zero) {
  EXPECT_EQ(philox(0, 0), 0xe169c58d6627e8d5u);
  const auto words = philox4x32({0x55667788, 0x11223344}, {0xddeeff00, 0x99aabbcc, 0, 0});
  EXPECT_EQ(philox(0x1122334455667788u, 0x99aabbccddeeff00u), uint64_t{words[1]} << 32 | words[0]);
}

TEST(Philox, is_usable_at_compile_time) {
  static_assert(philox(0, 0) == 0xe169c58d6627e8d5u);
  static_assert(mul_high(~uint64_t{0}, ~uint64_t{0}) == ~uint64_t{0} - 1);
  EXPECT_NE(philox(0, 1), philox(1, 0));
}

TEST(Philox, mul_high_is_the_upper_half_of_the_product) {
  EXPECT_EQ(mul_high(0, 12345), 0u);
  EXPECT_EQ(mul_high(uint64_t{1} << 63, 6), 3u);
  EXPECT_EQ(mul_high(0xfedcba9876543210u, 0x0123456789abcdefu), 0x0121fa00ad77d742u);
}

TEST(Philox, mul_high_of_draws_is_uniform_over_a_range) {
  constexpr int kBins = 10;
  constexpr int kDraws = 100000;
  std::array<int, kBins> counts{};
  for (uint64_t position = 0; position < kDraws; ++position) ++counts[mul_high(philox(42, position), kBins)];
  double chi_square = 0;
  for (int count : counts) chi_square += std::pow(count - kDraws / kBins, 2) / (kDraws / kBins);
  EXPECT_LT(chi_square, 27.9);  // 99.9th percentile with 9 degrees of freedom; the draws are fixed
}

}  // namespace
}  // namespace pagoda

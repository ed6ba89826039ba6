// Rotary frequencies and tables against their closed forms.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "io_test_files.h"
#include "model/rope_table.h"

namespace pagoda {
namespace {

RopeConfig plain(int rotary_dim) {
  RopeConfig rope;
  rope.theta = 10000;
  rope.rotary_dim = rotary_dim;
  return rope;
}

TEST(RopeTable, frequencies_fall_geometrically_from_one) {
  const auto frequencies = rope_frequencies(plain(8));
  ASSERT_EQ(frequencies.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(frequencies[i], std::pow(10.0, -static_cast<double>(i)));
}

TEST(RopeTable, rows_hold_cosines_then_sines_of_position_times_frequency) {
  const int64_t num_positions = 300;
  const auto table = make_rope_table(plain(8), num_positions);
  ASSERT_EQ(table.size(), 300u * 8);
  for (int64_t position : {0, 1, 7, 299}) {
    for (int pair = 0; pair < 4; ++pair) {
      const double angle = static_cast<double>(position) * std::pow(10.0, -pair);
      EXPECT_NEAR(table[static_cast<size_t>(position * 8 + pair)], std::cos(angle), 2e-5);
      EXPECT_NEAR(table[static_cast<size_t>(position * 8 + 4 + pair)], std::sin(angle), 2e-5);
    }
  }
}

TEST(RopeTable, linear_scaling_stretches_positions) {
  RopeConfig rope = plain(16);
  rope.scaling = RopeScaling::linear;
  rope.factor = 4;
  const auto scaled = rope_frequencies(rope), unscaled = rope_frequencies(plain(16));
  for (size_t i = 0; i < scaled.size(); ++i) EXPECT_DOUBLE_EQ(scaled[i], unscaled[i] / 4);
}

TEST(RopeTable, llama3_keeps_high_frequencies_divides_low_ones_and_blends_between) {
  RopeConfig rope = plain(128);
  rope.theta = 500000;
  rope.scaling = RopeScaling::llama3;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_context = 8192;
  RopeConfig unscaled_rope = plain(128);
  unscaled_rope.theta = 500000;
  const auto scaled = rope_frequencies(rope), unscaled = rope_frequencies(unscaled_rope);
  int kept = 0, divided = 0, blended = 0;
  for (size_t i = 0; i < scaled.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / unscaled[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_DOUBLE_EQ(scaled[i], unscaled[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_DOUBLE_EQ(scaled[i], unscaled[i] / 8);
      ++divided;
    } else {
      const double smooth = (8192.0 / wavelength - 1) / 3;
      EXPECT_NEAR(scaled[i], (1 - smooth) * unscaled[i] / 8 + smooth * unscaled[i], 1e-15);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(divided, 0);
  EXPECT_GT(blended, 0);
}

TEST(RopeTable, divisors_divide_their_own_pair) {
  RopeConfig rope = plain(8);
  rope.divisors = {1, 2, 4, 8};
  const auto divided = rope_frequencies(rope), undivided = rope_frequencies(plain(8));
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(divided[i], undivided[i] / static_cast<double>(rope.divisors[i]));
  rope.divisors.pop_back();
  EXPECT_EQ(error_of([&] { rope_frequencies(rope); }), "rope_freqs has 3 factors, wanted 4");
}

TEST(RopeTable, no_rotary_dimension_gives_an_empty_table) { EXPECT_TRUE(make_rope_table(plain(0), 10).empty()); }

}  // namespace
}  // namespace pagoda

// Rotary frequencies and tables against their closed forms.
#include <gtest/gtest.h>

#include <algorithm>
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
  const auto frequencies = rope_frequencies(plain(8), 1024);
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
  const auto scaled = rope_frequencies(rope, 1024), unscaled = rope_frequencies(plain(16), 1024);
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
  const auto scaled = rope_frequencies(rope, 1024), unscaled = rope_frequencies(unscaled_rope, 1024);
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
      const double expected = (1 - smooth) * unscaled[i] / 8 + smooth * unscaled[i];
      EXPECT_NEAR(scaled[i], expected, 6e-8 * expected);  // divided by a float
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
  const auto divided = rope_frequencies(rope, 1024), undivided = rope_frequencies(plain(8), 1024);
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(divided[i], undivided[i] / static_cast<double>(rope.divisors[i]));
  rope.divisors.pop_back();
  EXPECT_EQ(error_of([&] { rope_frequencies(rope, 1024); }), "rope_freqs has 3 factors, wanted 4");
}

/// Transformers' formulas in double, as they stand in the papers, for pair i of d / 2.
TEST(RopeTable, yarn_blends_by_the_turns_that_a_pair_makes_in_the_original_context) {
  RopeConfig rope = plain(64);
  rope.scaling = RopeScaling::yarn;
  rope.factor = 4;
  rope.original_context = 4096;
  for (const bool truncate : {true, false}) {
    rope.truncate = truncate;
    const auto scaled = rope_frequencies(rope, 1024), unscaled = rope_frequencies(plain(64), 1024);
    const auto pair_of = [](double turns) {
      return 64 * std::log(4096 / (turns * 2 * std::numbers::pi)) / (2 * std::log(10000.0));
    };
    const double low = truncate ? std::floor(pair_of(32)) : pair_of(32), high = truncate ? std::ceil(pair_of(1)) : pair_of(1);
    int blended = 0;
    for (size_t i = 0; i < scaled.size(); ++i) {
      const double ramp = std::min(1.0, std::max(0.0, (static_cast<double>(i) - low) / (high - low)));
      EXPECT_NEAR(scaled[i], unscaled[i] / 4 * ramp + unscaled[i] * (1 - ramp), 1e-15) << "pair " << i;
      blended += ramp > 0 && ramp < 1;
    }
    EXPECT_GT(blended, 3);
  }
}

TEST(RopeTable, longrope_takes_the_long_divisors_for_contexts_beyond_the_original_one) {
  RopeConfig rope = plain(8);
  rope.scaling = RopeScaling::longrope;
  rope.original_context = 100;
  rope.short_divisors = {1, 1, 2, 2};
  rope.long_divisors = {1, 3, 5, 7};
  const auto unscaled = rope_frequencies(plain(8), 100);
  const auto in_short = rope_frequencies(rope, 100), in_long = rope_frequencies(rope, 101);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(in_short[i], unscaled[i] / static_cast<double>(rope.short_divisors[i]));
    EXPECT_DOUBLE_EQ(in_long[i], unscaled[i] / static_cast<double>(rope.long_divisors[i]));
  }
  rope.long_divisors.pop_back();
  EXPECT_EQ(error_of([&] { rope_frequencies(rope, 101); }), "rope scaling: long_factor has 3 factors, wanted 4");
}

TEST(RopeTable, dynamic_scaling_starts_at_the_original_context_and_depends_on_the_position_alone) {
  RopeConfig rope = plain(8);
  rope.scaling = RopeScaling::dynamic;
  rope.factor = 2;
  rope.original_context = 50;
  const auto table = make_rope_table(rope, 90), shorter = make_rope_table(rope, 70), unscaled = make_rope_table(plain(8), 90);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), table.begin()));
  EXPECT_TRUE(std::equal(unscaled.begin(), unscaled.begin() + 50 * 8, table.begin()));
  const double theta = 10000 * std::pow(2 * 80.0 / 50 - 1, 8 / 6.0);
  for (int pair = 0; pair < 4; ++pair) {
    const double angle = 79 * std::pow(theta, -2.0 * pair / 8);
    EXPECT_NEAR(table[static_cast<size_t>(79 * 8 + pair)], std::cos(angle), 2e-5);
  }
}

TEST(RopeTable, the_attention_factor_multiplies_cosines_and_sines) {
  RopeConfig rope = plain(8);
  rope.attention_factor = 1.5;
  const auto scaled = make_rope_table(rope, 20), unscaled = make_rope_table(plain(8), 20);
  for (size_t i = 0; i < scaled.size(); ++i) EXPECT_EQ(scaled[i], unscaled[i] * 1.5f);
}

TEST(RopeTable, no_rotary_dimension_gives_an_empty_table) { EXPECT_TRUE(make_rope_table(plain(0), 10).empty()); }

}  // namespace
}  // namespace pagoda

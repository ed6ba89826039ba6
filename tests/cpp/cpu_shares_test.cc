// Shares: the tasks cover all units once, in order, and shrink.
#include <gtest/gtest.h>

#include "backend/cpu/shares.h"

namespace pagoda::cpu {
namespace {

TEST(Shares, tasks_cover_the_units_in_order_and_shrink) {
  for (const int64_t threads : {1, 2, 3, 16}) {
    for (const int64_t least : {1, 4}) {
      for (const int64_t units : {1, 2, 5, 18, 96, 1000}) {
        const Shares shares(units, threads, least);
        int64_t next = 0, size = units;
        for (int64_t i = 0; i < shares.count(); ++i) {
          const auto [begin, end] = shares[i];
          EXPECT_EQ(begin, next) << "task " << i << " of " << units << " units, " << threads << " threads";
          EXPECT_GT(end, begin);
          EXPECT_LE(end - begin, size);
          next = end, size = end - begin;
        }
        EXPECT_EQ(next, units) << threads << " threads, at least " << least;
      }
    }
  }
}

TEST(Shares, the_first_round_is_half_of_the_units_and_the_last_tasks_are_the_least) {
  const Shares shares(96, 2, 1);
  EXPECT_EQ(shares[0].end, 24);
  EXPECT_EQ(shares[1].end, 48);
  EXPECT_EQ(shares[2].end, 60);
  EXPECT_EQ(shares[shares.count() - 1].begin, 95);
}

}  // namespace
}  // namespace pagoda::cpu

// The swap space: blocks are taken all or none and come back once.
#include <gtest/gtest.h>

#include "core/check.h"
#include "kv/swap_space.h"

namespace pagoda {
namespace {

TEST(SwapSpace, gives_out_all_or_nothing) {
  SwapSpace space(5);
  std::vector<BlockId> a = space.take(2).value(), b = space.take(3).value();
  EXPECT_EQ(a, (std::vector<BlockId>{0, 1}));
  EXPECT_EQ(b, (std::vector<BlockId>{2, 3, 4}));
  EXPECT_FALSE(space.take(1));
  EXPECT_TRUE(space.take(0));
  space.give_back(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(space.num_free(), 2);
  EXPECT_FALSE(space.take(3));
  EXPECT_EQ(space.take(2).value(), (std::vector<BlockId>{0, 1}));
}

TEST(SwapSpace, an_empty_one_gives_nothing) {
  SwapSpace space(0);
  EXPECT_FALSE(space.take(1));
  EXPECT_EQ(space.num_blocks(), 0);
  EXPECT_THROW(SwapSpace(-1), InvalidArgument);
}

TEST(SwapSpace, notices_a_block_that_is_lost_or_given_back_twice) {
  SwapSpace space(4);
  std::vector<BlockId> a = space.take(2).value(), b = space.take(2).value();
  const std::vector<const std::vector<BlockId>*> both = {&a, &b}, one = {&a};
  space.check_integrity(both);
  EXPECT_THROW(space.check_integrity(one), InternalError);
  std::vector<BlockId> copy = a;
  space.give_back(a);
  space.give_back(b);
  EXPECT_THROW(space.give_back(copy), InternalError);
}

}  // namespace
}  // namespace pagoda

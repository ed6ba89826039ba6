// The router against the CPU's, bit by bit, and the sums of experts' outputs against sums in double precision.
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "backend/cpu/routing.h"
#include "cuda/kernels.h"
#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

/// A routing with memory of its own.
struct OwnRouting {
  OwnRouting(int num_experts, int top_k, int64_t num_tokens)
      : experts(static_cast<size_t>(num_tokens * top_k), -1),
        expert_start(static_cast<size_t>(num_experts) + 1, -1),
        pairs(experts.size(), -1),
        places(experts.size(), -1),
        weights(experts.size(), -1) {
    view = {num_experts, top_k, num_tokens, experts.data(), weights.data(), expert_start.data(), pairs.data(), places.data()};
  }

  std::vector<int32_t> experts, expert_start, pairs, places;
  std::vector<float> weights;
  Routing view;
};

struct Case {
  int num_experts, top_k;
  int64_t tokens;
  RouteArgs args;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (auto [experts, k] :
       {std::pair{1, 1}, {2, 2}, {8, 2}, {60, 4}, {128, 8}, {129, 6}, {512, 10}, {513, 3}, {40, 40}, {600, 35}}) {
    for (int64_t tokens : {1, 5, 130}) {
      if (int64_t{experts} * k * tokens > 300000) continue;
      all.push_back({experts, k, tokens, {k, true, false, 1}});
      all.push_back({experts, k, tokens, {k, true, true, 2.5f}});
      all.push_back({experts, k, tokens, {k, false, false, 0.3f}});
    }
  }
  return all;
}

/// Logits with equal ones among them; `strange`: with zeros of both signs, infinities and NaNs too.
HostTensor random_logits(const Case& c, bool strange, int64_t gap = 0) {
  std::mt19937 random(static_cast<unsigned>(c.num_experts + c.tokens));
  HostTensor logits = HostTensor::random(DType::f32, c.tokens, c.num_experts, random, 3, c.num_experts + gap);
  constexpr float kStrange[] = {0.0f, -0.0f, kInfinity, -kInfinity, kNan, -kNan, 1e-42f, -1e-42f};
  for (int64_t i = 0; i < c.tokens; ++i) {
    for (int64_t j = 2; j < c.num_experts; j += 3) logits.set(i, j, logits.get(i, j - 1 - static_cast<int64_t>(random() % 2)));
    for (int64_t j = 0; strange && j < c.num_experts; j += 1 + i % 4) logits.set(i, j, kStrange[random() % 8]);
  }
  return logits;
}

void expect_as_on_cpu(const Case& c, HostTensor logits, const Queue& queue = test_queue()) {
  SCOPED_TRACE(str(c.tokens, " tokens, ", c.top_k, " of ", c.num_experts));
  OwnRouting expected(c.num_experts, c.top_k, c.tokens), got(c.num_experts, c.top_k, c.tokens);
  for (int64_t t = 0; t < c.tokens; ++t) cpu::choose_experts(expected.view, t, logits.view().row<float>(t), c.args);
  cpu::sort_pairs(expected.view);
  route(queue, got.view, logits.view(), c.args);
  synchronize();
  EXPECT_EQ(got.experts, expected.experts);
  EXPECT_EQ(got.expert_start, expected.expert_start);
  EXPECT_EQ(got.pairs, expected.pairs);
  EXPECT_EQ(got.places, expected.places);
  for (size_t i = 0; i < got.weights.size(); ++i) {
    const float a = got.weights[i], b = expected.weights[i];
    EXPECT_TRUE(std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b)) << i << ": " << a << ", " << b;
  }
}

TEST(Route, gives_the_bits_of_the_cpu) {
  for (const Case& c : cases()) expect_as_on_cpu(c, random_logits(c, false));
}

TEST(Route, orders_zeros_infinities_and_nan_like_the_cpu) {
  for (const Case& c : cases()) {
    if (c.tokens < 100) expect_as_on_cpu(c, random_logits(c, true));
  }
  const Case c{16, 5, 200, {5, true, false, 1}};
  expect_as_on_cpu(c, random_logits(c, true));
}

TEST(Route, takes_strided_logits) {
  const Case c{60, 4, 9, {4, true, true, 1}};
  expect_as_on_cpu(c, random_logits(c, false, 5));
}

TEST(Route, sorts_many_pairs_by_several_warps) {
  const Case c{24, 3, 2500, {3, false, false, 1}};
  expect_as_on_cpu(c, random_logits(c, false));
}

TEST(Route, sorts_within_the_shared_memory_of_the_device) {
  Queue small = test_queue();
  const size_t before = std::exchange(emu::device().shared_bytes, 512);  // room for four warps' counts
  small.shared_bytes = emu::device().shared_bytes;
  expect_as_on_cpu({24, 3, 400, {3, false, false, 1}}, random_logits({24, 3, 400, {}}, false), small);
  emu::device().shared_bytes = before;
}

TEST(Route, no_schedule_of_threads_changes_anything) {
  for (const Case& c : {Case{40, 3, 70, {3, true, false, 1}}, Case{140, 2, 35, {2, true, true, 1}}}) {
    for (unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      expect_as_on_cpu(c, random_logits(c, false));
    }
  }
}

TEST(Route, no_tokens_leave_every_expert_empty) {
  OwnRouting routing(5, 2, 0);
  route(test_queue(), routing.view, Tensor::dense(nullptr, DType::f32, {0, 5}), {2, true, true, 1});
  synchronize();
  EXPECT_EQ(routing.expert_start, std::vector<int32_t>(6, 0));
}

struct Sum {
  int top_k;
  int64_t tokens, cols, gap;
};

/// Places and weights of some routing, and rows to be combined with them.
struct CombineCase {
  explicit CombineCase(const Sum& sum)
      : random(5),
        routing(sum.top_k, sum.top_k, sum.tokens),
        y(HostTensor::random(DType::bf16, sum.tokens * sum.top_k, sum.cols, random, 1, sum.cols + sum.gap)) {
    for (size_t i = 0; i < routing.places.size(); ++i) {
      routing.places[i] = static_cast<int32_t>(i);
      routing.weights[i] = std::normal_distribution<float>()(random);
    }
    std::shuffle(routing.places.begin(), routing.places.end(), random);
  }

  std::mt19937 random;
  OwnRouting routing;
  HostTensor y;
};

TEST(CombineExperts, sums_are_right_and_in_order) {
  for (const Sum& sum :
       {Sum{1, 3, 64, 0}, Sum{2, 5, 2048, 0}, Sum{8, 9, 130, 6}, Sum{6, 4, 70, 0}, Sum{9, 2, 7, 1}, Sum{4, 6, 96, 8}}) {
    SCOPED_TRACE(str(sum.tokens, " tokens, top ", sum.top_k, ", ", sum.cols, " columns, gap ", sum.gap));
    CombineCase c(sum);
    HostTensor out(DType::bf16, sum.tokens, sum.cols, sum.cols + sum.gap), expected = out;
    combine_experts(test_queue(), out.view(), c.y.view(), c.routing.view);
    synchronize();
    for (int64_t t = 0; t < sum.tokens; ++t) {
      for (int64_t col = 0; col < sum.cols; ++col) {
        float total = 0;
        double exact = 0;
        for (int j = 0; j < sum.top_k; ++j) {
          const auto pair = static_cast<size_t>(t * sum.top_k + j);
          const float value = c.y.get(c.routing.places[pair], col);
          total = std::fma(c.routing.weights[pair], value, total);
          exact += double{c.routing.weights[pair]} * double{value};
        }
        expected.set(t, col, total);
        ASSERT_NEAR(total, exact, 1e-5);
      }
    }
    EXPECT_TRUE(out == expected);
  }
}

TEST(CombineExperts, no_schedule_or_batch_changes_bits) {
  const Sum sum{3, 20, 136, 0};
  CombineCase c(sum);
  HostTensor expected(DType::bf16, 20, 136);
  combine_experts(test_queue(), expected.view(), c.y.view(), c.routing.view);
  synchronize();
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    HostTensor out(DType::bf16, 20, 136);
    combine_experts(test_queue(132), out.view(), c.y.view(), c.routing.view);
    synchronize();
    EXPECT_TRUE(out == expected) << "schedule " << seed;
  }
  HostTensor last(DType::bf16, 1, 136);
  Routing routing = c.routing.view;
  routing.num_tokens = 1;
  routing.places += 19 * 3;
  routing.weights += 19 * 3;
  combine_experts(test_queue(), last.view(), c.y.view(), routing);
  synchronize();
  for (int64_t col = 0; col < 136; ++col) EXPECT_EQ(last.get(0, col), expected.get(19, col));
}

}  // namespace
}  // namespace pagoda::cuda

// `grouped_linear` against `linear` with each expert's matrix, bit by bit.
#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/linear.h"
#include "matrix_support.h"

namespace pagoda::cuda {
namespace {

struct Case {
  int num_experts, top_k;
  int64_t tokens, rows, cols;
  bool bias = false;
  DType out = DType::bf16;
  int64_t gap = 0;    ///< between the rows of x and of the output
  int only_even = 0;  ///< 1: experts with odd numbers get no tokens
};

/// Experts, a routing that was drawn at random, and x for either kind of input.
struct Mixture {
  Mixture(MatrixFormat format, const Case& c)
      : c(c),
        random(static_cast<unsigned>(c.tokens + c.num_experts)),
        experts(format, c.num_experts * c.rows, c.cols, random),
        bias(static_cast<size_t>(c.num_experts * c.rows)),
        expert_start(static_cast<size_t>(c.num_experts) + 1, 0),
        pairs(static_cast<size_t>(c.tokens * c.top_k)) {
    for (float& b : bias) b = std::normal_distribution<float>()(random);
    std::vector<std::vector<int32_t>> by_expert(static_cast<size_t>(c.num_experts));
    for (int32_t pair = 0; pair < c.tokens * c.top_k; ++pair) {
      size_t expert = random() % static_cast<unsigned>(c.num_experts);
      if (c.only_even) expert -= expert % 2;
      by_expert[expert].push_back(pair);
    }
    size_t place = 0;
    for (size_t e = 0; e < by_expert.size(); ++e) {
      for (int32_t pair : by_expert[e]) pairs[place++] = pair;
      expert_start[e + 1] = static_cast<int32_t>(place);
    }
    routing.num_experts = c.num_experts;
    routing.top_k = c.top_k;
    routing.num_tokens = c.tokens;
    routing.expert_start = expert_start.data();
    routing.pairs = pairs.data();
  }

  HostTensor input(ExpertInput kind) {
    const int64_t rows = kind == ExpertInput::by_token ? c.tokens : c.tokens * c.top_k;
    return HostTensor::random(DType::bf16, rows, c.cols, random, 1, c.cols + c.gap);
  }
  HostTensor output() const { return HostTensor(c.out, c.tokens * c.top_k, c.rows, c.rows + c.gap); }
  const float* bias_data() const { return c.bias ? bias.data() : nullptr; }

  HostTensor run(HostTensor& x, ExpertInput kind, const Queue& queue = test_queue()) {
    HostTensor out = output();
    grouped_linear(queue, out.view(), x.view(), experts.matrix(), bias_data(), routing, kind, nullptr);
    synchronize();
    return out;
  }

  /// Each place by `linear` with its expert's matrix alone.
  HostTensor run_one_by_one(HostTensor& x, ExpertInput kind) {
    HostTensor out = output();
    for (int e = 0; e < c.num_experts; ++e) {
      for (int32_t place = expert_start[static_cast<size_t>(e)]; place < expert_start[static_cast<size_t>(e) + 1]; ++place) {
        const int64_t row = kind == ExpertInput::by_token ? pairs[static_cast<size_t>(place)] / c.top_k : place;
        const Tensor all = x.view(), outs = out.view();
        const Tensor one{all.row<uint16_t>(row), DType::bf16, {1, c.cols}, all.row_stride};
        const Tensor to{out.bytes.data() + static_cast<size_t>(place * out.row_stride) * dtype_bytes(c.out),
                        c.out,
                        {1, c.rows},
                        outs.row_stride};
        linear(test_queue(), to, one, expert(e), c.bias ? bias.data() + e * c.rows : nullptr, nullptr);
      }
    }
    synchronize();
    return out;
  }

  Matrix expert(int e) const {
    Matrix matrix = experts.matrix();
    matrix.rows = c.rows;
    const int64_t before = e * c.rows;
    matrix.values = static_cast<const std::byte*>(matrix.values) + matrix_value_bytes(matrix.format, before * matrix.stride);
    const size_t scale_bytes = matrix_scale_bytes(matrix.format, before, matrix.stride);
    if (matrix.scales) matrix.scales = static_cast<const std::byte*>(matrix.scales) + scale_bytes;
    return matrix;
  }

  Case c;
  std::mt19937 random;
  HostMatrix experts;
  std::vector<float> bias;
  std::vector<int32_t> expert_start, pairs;
  Routing routing;
};

constexpr ExpertInput kInputs[] = {ExpertInput::by_token, ExpertInput::by_place};

std::string describe(MatrixFormat format, const Case& c, ExpertInput input) {
  return str(matrix_format_name(format), ", ", c.tokens, " tokens to ", c.top_k, " of ", c.num_experts, " experts of [", c.rows,
             ", ", c.cols, "]", input == ExpertInput::by_token ? ", by token" : ", by place");
}

TEST(GroupedLinear, a_row_has_the_bits_of_linear_with_its_expert) {
  constexpr Case kCases[] = {{1, 1, 1, 16, 64},
                             {4, 1, 1, 40, 96, true},
                             {8, 2, 13, 33, 192, false, DType::f32},
                             {4, 2, 50, 24, 160, true, DType::bf16, 3},
                             {3, 3, 9, 130, 64, true, DType::f32, 8},
                             {70, 4, 11, 20, 64, true},
                             {6, 2, 30, 20, 96, false, DType::bf16, 0, 1},
                             {2, 1, 260, 17, 64, true}};
  for (MatrixFormat format : kMatrixFormats) {
    for (const Case& c : kCases) {
      for (ExpertInput input : kInputs) {
        SCOPED_TRACE(describe(format, c, input));
        Mixture mixture(format, c);
        HostTensor x = mixture.input(input);
        EXPECT_TRUE(mixture.run(x, input) == mixture.run_one_by_one(x, input));
      }
    }
  }
}

TEST(GroupedLinear, sums_are_right) {
  for (ExpertInput input : kInputs) {
    for (MatrixFormat format : {MatrixFormat::q4, MatrixFormat::f8}) {
      Mixture mixture(format, {5, 2, 12, 24, 320, true, DType::f32});
      HostTensor x = mixture.input(input);
      const HostTensor out = mixture.run(x, input);
      for (int e = 0; e < 5; ++e) {
        for (int32_t place = mixture.expert_start[static_cast<size_t>(e)];
             place < mixture.expert_start[static_cast<size_t>(e) + 1]; ++place) {
          const int64_t row = input == ExpertInput::by_token ? mixture.pairs[static_cast<size_t>(place)] / 2 : place;
          for (int64_t i = 0; i < 24; ++i) {
            const Product product = exact_product(mixture.experts, e * 24 + i, x, row);
            const double expected = product.value + double{mixture.bias[static_cast<size_t>(e * 24 + i)]};
            ASSERT_NEAR(out.get(place, i), expected, product.error + 0x1p-22 * std::abs(expected)) << place << ", " << i;
          }
        }
      }
    }
  }
}

TEST(GroupedLinear, no_tile_changes_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    Mixture mixture(format, {3, 2, 75, 40, 320, true});
    HostTensor x = mixture.input(ExpertInput::by_token);
    const HostTensor expected = mixture.run(x, ExpertInput::by_token);
    for (int tile = 0; tile < kNumLinearTiles; ++tile) {
      HostTensor out = mixture.output();
      LinearJob job = linear_job(out.view(), x.view(), mixture.experts.matrix(), mixture.bias_data());
      job.rows = 40;
      job.num_tokens = 150;
      job.expert_start = mixture.expert_start.data();
      job.num_experts = 3;
      job.pairs = mixture.pairs.data();
      job.top_k = 2;
      launch_linear(test_queue(), static_cast<LinearTile>(tile), job);
      synchronize();
      EXPECT_TRUE(out == expected) << tile;
    }
  }
}

TEST(GroupedLinear, no_schedule_and_no_device_changes_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    Mixture mixture(format, {6, 2, 20, 40, 320, true});
    HostTensor x = mixture.input(ExpertInput::by_place);
    const HostTensor expected = mixture.run(x, ExpertInput::by_place);
    EXPECT_TRUE(mixture.run(x, ExpertInput::by_place, test_queue(132)) == expected);
    EXPECT_TRUE(mixture.run(x, ExpertInput::by_place, test_queue(1, 80)) == expected);
    for (unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      EXPECT_TRUE(mixture.run(x, ExpertInput::by_place) == expected) << "schedule " << seed;
    }
  }
}

TEST(GroupedLinear, no_tokens_are_no_launch) {
  Mixture mixture(MatrixFormat::bf16, {2, 2, 0, 8, 64});
  HostTensor x(DType::bf16, 0, 64);
  const uint64_t before = emu::num_launches();
  mixture.run(x, ExpertInput::by_token);
  EXPECT_EQ(emu::num_launches(), before);
  EXPECT_EQ(grouped_linear_workspace(4096, 2048, MatrixFormat::q4, ExpertInput::by_place), size_t{0});
}

}  // namespace
}  // namespace pagoda::cuda

// `gated_linear` has the bits of `linear` and `gated_activation`, whatever computes it.
#include <gtest/gtest.h>

#include "cuda/kernels.h"
#include "cuda/linear.h"
#include "matrix_support.h"

namespace pagoda::cuda {
namespace {

constexpr Activation kActivations[] = {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu,
                                       Activation::clamped_swiglu};

bool is_fused(Activation activation) { return activation == Activation::silu || activation == Activation::gelu_tanh; }

/// Operands, random; `inner` rows of gate and as many of up.
struct Case {
  Case(MatrixFormat format, int64_t inner, int64_t cols, int64_t tokens, bool with_bias, int64_t gap = 0)
      : random(7),
        weight(format, 2 * inner, cols, random),
        x(HostTensor::random(DType::bf16, tokens, cols, random, 1, cols + gap)),
        bias(static_cast<size_t>(with_bias ? 2 * inner : 0)),
        gap(gap) {
    std::normal_distribution<float> normal(0, 1);
    for (float& b : bias) b = normal(random);
  }

  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
  HostTensor output() const { return {DType::bf16, x.rows, weight.matrix().rows / 2, weight.matrix().rows / 2 + gap}; }

  HostTensor in_two_steps(Activation activation) {
    HostTensor gate_up(DType::bf16, x.rows, weight.matrix().rows), out = output();
    linear(test_queue(), gate_up.view(), x.view(), weight.matrix(), bias_data(), nullptr);
    gated_activation(test_queue(), out.view(), gate_up.view(), activation);
    synchronize();
    return out;
  }
  HostTensor fused(Activation activation, Queue queue = test_queue()) {
    HostTensor gate_up(DType::bf16, x.rows, weight.matrix().rows), out = output();
    gated_linear(queue, out.view(), gate_up.view(), x.view(), weight.matrix(), bias_data(), activation, nullptr);
    synchronize();
    return out;
  }
  HostTensor by_tile(LinearTile tile) {
    HostTensor out = output();
    LinearJob job = linear_job(out.view(), x.view(), weight.matrix(), bias_data());
    job.gated = true;
    launch_linear(test_queue(), tile, job);
    synchronize();
    return out;
  }

  std::mt19937 random;
  HostMatrix weight;
  HostTensor x;
  std::vector<float> bias;
  int64_t gap;
};

TEST(GatedLinear, is_linear_and_gated_activation_bit_for_bit) {
  for (MatrixFormat format : kMatrixFormats) {
    for (auto [inner, cols] : {std::pair{1, 64}, {40, 96}, {75, 320}}) {
      for (int64_t tokens : {1, 2, 9, 17, 70}) {
        SCOPED_TRACE(str(matrix_format_name(format), ", ", tokens, " tokens, ", inner, " of ", cols));
        Case c(format, inner, cols, tokens, tokens % 2 == 1, tokens % 3);
        for (Activation activation : kActivations) {
          if (tokens > 2 && !is_fused(activation)) continue;
          EXPECT_TRUE(c.fused(activation) == c.in_two_steps(activation)) << static_cast<int>(activation);
        }
      }
    }
  }
}

TEST(GatedLinear, is_one_launch_where_the_kernel_has_the_activation) {
  Case c(MatrixFormat::bf16, 40, 96, 3, false);
  for (Activation activation : kActivations) {
    const uint64_t before = emu::num_launches();
    c.fused(activation);
    EXPECT_EQ(emu::num_launches() - before, is_fused(activation) ? 1u : 2u);
  }
}

TEST(GatedLinear, no_tile_and_no_schedule_changes_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    for (int64_t inner : {131, 64}) {
      Case c(format, inner, 320, 130, true);
      const HostTensor expected = c.in_two_steps(Activation::silu);
      for (int tile = 0; tile < kNumLinearTiles; ++tile) {
        EXPECT_TRUE(c.by_tile(static_cast<LinearTile>(tile)) == expected) << matrix_format_name(format) << ", tile " << tile;
      }
    }
    Case few(format, 21, 832, 5, true);
    const HostTensor expected = few.in_two_steps(Activation::silu);
    for (unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      for (int tile = 0; tile < kNumLinearTiles; ++tile) {
        EXPECT_TRUE(few.by_tile(static_cast<LinearTile>(tile)) == expected) << "tile " << tile << ", schedule " << seed;
      }
    }
  }
}

TEST(GatedLinear, the_batch_and_the_device_change_no_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    Case c(format, 36, 608, 33, false);
    const HostTensor whole = c.fused(Activation::silu, test_queue(132));
    EXPECT_TRUE(c.fused(Activation::silu, test_queue(1)) == whole);
    EXPECT_TRUE(c.fused(Activation::silu, test_queue(4, 80)) == whole);
    const HostTensor x = c.x;
    for (int64_t token : {0, 20, 32}) {
      c.x = HostTensor(DType::bf16, 1, 608);
      for (int64_t j = 0; j < 608; ++j) c.x.set(0, j, x.get(token, j));
      const HostTensor one = c.fused(Activation::silu);
      for (int64_t j = 0; j < 36; ++j) ASSERT_EQ(one.get(0, j), whole.get(token, j)) << token << ", " << j;
    }
  }
}

TEST(GatedLinear, no_tokens_are_no_launch) {
  Case c(MatrixFormat::q8, 8, 64, 0, false);
  const uint64_t before = emu::num_launches();
  c.fused(Activation::silu);
  EXPECT_EQ(emu::num_launches(), before);
}

}  // namespace
}  // namespace pagoda::cuda

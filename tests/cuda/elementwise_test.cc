// Operations on every element by itself, against doubles over dense, strided and unaligned rows.
#include "cuda/kernels.h"
#include "elementwise_support.h"

namespace pagoda::cuda {
namespace {

constexpr int64_t kCols[] = {1, 7, 64, 100, 264, 2304};
constexpr Activation kGated[] = {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu,
                                 Activation::clamped_swiglu};

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu_tanh:
      // x / 2 * (1 + tanh(u)), without cancellation
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu:
      return x / 2 * std::erfc(-x / std::sqrt(2));
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::clamped_swiglu:
      break;
  }
  return NAN;
}

double gated(Activation activation, double gate, double up) {
  if (activation != Activation::clamped_swiglu) return activated(activation, gate) * up;
  const double g = std::min(gate, 7.0), u = std::min(std::max(up, -7.0), 7.0);
  return g / (1 + std::exp(-1.702 * g)) * (u + 1);
}

/// check(tokens, cols, margins) over the grid.
void for_each_shape(const std::function<void(int64_t, int64_t, Margins)>& check) {
  for (int64_t cols : kCols) {
    for (int64_t tokens : kTokens) {
      for (const Margins& margins : kMargins) check(tokens, cols, margins);
    }
  }
}

/// Runs `operation` on all of `x`, then on single rows and on pairs of rows of a copy: the bits must be the same; so must they
/// be under every schedule.
void expect_rows_by_themselves(const Window& x, const std::function<void(const Tensor&, int64_t first)>& operation) {
  Window whole = x;
  operation(whole.view(), 0);
  synchronize();
  for (int64_t step : {1, 2}) {
    Window parts = x;
    for (int64_t i = 0; i < x.rows(); i += step) operation(parts.rows_view(i, std::min(i + step, x.rows())), i);
    synchronize();
    EXPECT_EQ(parts, whole);
  }
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    Window again = x;
    operation(again.view(), 0);
    synchronize();
    EXPECT_EQ(again, whole) << "schedule " << seed;
  }
}

TEST(Elementwise, add_is_a_sum_rounded_once) {
  std::mt19937 random(1);
  for_each_shape([&](int64_t tokens, int64_t cols, Margins margins) {
    const Window before = Window::random(DType::bf16, tokens, cols, margins, random);
    Window residual = before, x = Window::random(DType::bf16, tokens, cols, {margins.after, margins.before}, random);
    add(test_queue(), residual.view(), x.view(), 0.75f);
    synchronize();
    expect_rounded(residual, [&](int64_t i, int64_t j) { return before.get(i, j) + 0.75 * x.get(i, j); }, 0);
  });
}

TEST(Elementwise, scale_multiplies_and_caps) {
  std::mt19937 random(2);
  for (DType dtype : {DType::bf16, DType::f32}) {
    for (float cap : {0.0f, 3.0f}) {
      for_each_shape([&](int64_t tokens, int64_t cols, Margins margins) {
        const Window before = Window::random(dtype, tokens, cols, margins, random, 2);
        Window x = before;
        scale(test_queue(), x.view(), 1.5f, cap);
        synchronize();
        const auto expected = [&](int64_t i, int64_t j) {
          const double scaled = 1.5 * before.get(i, j);
          return cap > 0 ? cap * std::tanh(scaled / cap) : scaled;
        };
        expect_rounded(x, expected);
        if (dtype == DType::bf16) return;
        for (int64_t j = 0; j < cols; ++j) EXPECT_NEAR(x.get(0, j), expected(0, j), 2e-6);
      });
    }
  }
}

TEST(Elementwise, activations_act_in_place) {
  std::mt19937 random(3);
  for (Activation kind : kGated) {
    if (kind == Activation::clamped_swiglu) continue;
    for_each_shape([&](int64_t tokens, int64_t cols, Margins margins) {
      const Window before = Window::random(DType::bf16, tokens, cols, margins, random, 3);
      Window x = before;
      activation(test_queue(), x.view(), kind);
      synchronize();
      expect_rounded(x, [&](int64_t i, int64_t j) { return activated(kind, before.get(i, j)); });
    });
  }
}

TEST(Elementwise, gated_activations_multiply_gate_and_up) {
  std::mt19937 random(4);
  for (Activation kind : kGated) {
    for_each_shape([&](int64_t tokens, int64_t cols, Margins margins) {
      Window gate_up = Window::random(DType::bf16, tokens, 2 * cols, margins, random, 4);
      Window out(DType::bf16, tokens, cols, margins);
      gated_activation(test_queue(), out.view(), gate_up.view(), kind);
      synchronize();
      expect_rounded(out, [&](int64_t i, int64_t j) { return gated(kind, gate_up.get(i, j), gate_up.get(i, cols + j)); }, 1e-5);
    });
  }
}

TEST(Elementwise, activations_hold_over_the_whole_range) {
  constexpr int64_t kCodes = 65536;
  for (Activation kind : kGated) {
    Window x(DType::bf16, 2, 2 * kCodes);
    for (int64_t i = 0; i < kCodes; ++i) {
      const float value = bf16_to_float(static_cast<uint16_t>(i));
      x.set(0, i, value), x.set(0, kCodes + i, 1), x.set(1, i, value), x.set(1, kCodes + i, -0.5f);
    }
    Window out(DType::bf16, 2, kCodes);
    gated_activation(test_queue(), out.view(), x.view(), kind);
    synchronize();
    for (int64_t row : {0, 1}) {
      for (int64_t i = 0; i < kCodes; ++i) {
        const double value = x.get(row, i), expected = gated(kind, value, x.get(row, kCodes + i));
        if (std::isinf(value)) continue;
        const double got = out.get(row, i);
        if (std::isnan(value)) {
          ASSERT_TRUE(std::isnan(got)) << i;
        } else if (std::abs(expected) > 3e38) {
          ASSERT_GT(std::abs(got), 3e38) << value;
        } else {  // relative, but for tails that f32 does not hold
          ASSERT_TRUE(is_rounded(expected, got, std::abs(expected) * 1e-4 + 1e-30)) << value << ": " << got;
        }
      }
    }
  }
}

TEST(Elementwise, sigmoid_scale_takes_one_gate_for_a_row) {
  std::mt19937 random(5);
  for_each_shape([&](int64_t tokens, int64_t cols, Margins margins) {
    const Window before = Window::random(DType::bf16, tokens, cols, margins, random);
    Window x = before, gate = Window::random(DType::bf16, tokens, 1, margins, random, 2);
    sigmoid_scale(test_queue(), x.view(), gate.view());
    synchronize();
    expect_rounded(x, [&](int64_t i, int64_t j) { return before.get(i, j) / (1 + std::exp(-double{gate.get(i, 0)})); });
  });
}

TEST(Elementwise, gather_rows_copies_bits) {
  std::mt19937 random(6);
  for_each_shape([&](int64_t tokens, int64_t cols, Margins margins) {
    Window x = Window::random(DType::bf16, 9, cols, margins, random),
           out(DType::bf16, tokens, cols, {margins.after, margins.before});
    std::vector<int32_t> rows(static_cast<size_t>(tokens));
    for (int32_t& row : rows) row = static_cast<int32_t>(random() % 9);
    gather_rows(test_queue(), out.view(), x.view(), rows.data());
    synchronize();
    expect_rounded(out, [&](int64_t i, int64_t j) { return x.get(rows[static_cast<size_t>(i)], j); }, 0);
    for (int64_t j = 0; j < cols; ++j) EXPECT_EQ(out.get(0, j), x.get(rows[0], j));
  });
}

TEST(Elementwise, no_row_knows_of_others) {
  std::mt19937 random(7);
  for (const Margins& margins : kMargins) {
    for (int64_t cols : {100, 2304}) {
      const Window x = Window::random(DType::bf16, 7, cols, margins, random);
      Window other = Window::random(DType::bf16, 7, cols, margins, random),
             gate = Window::random(DType::bf16, 7, 1, {}, random);
      const auto rest = [](Window& w, const Tensor& of, int64_t first) { return w.rows_view(first, first + of.rows()); };
      expect_rows_by_themselves(x, [&](const Tensor& t, int64_t i) { add(test_queue(), t, rest(other, t, i), 0.3f); });
      expect_rows_by_themselves(x, [&](const Tensor& t, int64_t) { scale(test_queue(), t, 0.3f, 2); });
      expect_rows_by_themselves(x, [&](const Tensor& t, int64_t) { activation(test_queue(), t, Activation::gelu); });
      expect_rows_by_themselves(x, [&](const Tensor& t, int64_t i) { sigmoid_scale(test_queue(), t, rest(gate, t, i)); });
      expect_rows_by_themselves(x, [&](const Tensor& t, int64_t i) {
        gated_activation(test_queue(), t.columns(0, cols / 2), rest(other, t, i), Activation::silu);
      });
    }
  }
}

TEST(Elementwise, relu_and_clamps_keep_nan) {
  Window x(DType::bf16, 1, 9);  // all NaN
  activation(test_queue(), x.view(), Activation::relu);
  synchronize();
  for (int64_t j = 0; j < 9; ++j) EXPECT_TRUE(std::isnan(x.get(0, j)));
  Window gate_up(DType::bf16, 1, 18), out(DType::bf16, 1, 9);
  for (int64_t j = 0; j < 9; ++j) gate_up.set(0, j, 1), out.set(0, j, 0);
  gated_activation(test_queue(), out.view(), gate_up.view(), Activation::clamped_swiglu);
  synchronize();
  for (int64_t j = 0; j < 9; ++j) EXPECT_TRUE(std::isnan(out.get(0, j)));
}

TEST(Elementwise, no_rows_are_no_launch) {
  Window x(DType::bf16, 0, 64), gate_up(DType::bf16, 0, 128), gate(DType::bf16, 0, 1);
  const uint64_t before = emu::num_launches();
  add(test_queue(), x.view(), x.view(), 1);
  scale(test_queue(), x.view(), 2, 0);
  activation(test_queue(), x.view(), Activation::silu);
  gated_activation(test_queue(), x.view(), gate_up.view(), Activation::silu);
  sigmoid_scale(test_queue(), x.view(), gate.view());
  gather_rows(test_queue(), x.view(), x.view(), nullptr);
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

}  // namespace
}  // namespace pagoda::cuda

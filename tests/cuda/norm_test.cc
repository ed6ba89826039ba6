// Norms against doubles, over all lengths of rows that take kernels of their own, aligned or not.
#include "cuda/kernels.h"
#include "elementwise_support.h"

namespace pagoda::cuda {
namespace {

/// A warp's rows, 1, 2 and 4 vectors to a thread of a block, and rows that are read again; each with and without a last vector
/// that is not whole.
constexpr int64_t kCols[] = {1, 9, 64, 576, 1024, 1030, 2048, 3000, 4096, 5120, 8192, 8200, 9001};

struct Weights {
  Weights(int64_t cols, std::mt19937& random) : weight(static_cast<size_t>(cols)), bias(static_cast<size_t>(cols)) {
    std::normal_distribution<float> normal;
    for (float& w : weight) w = 1 + 0.3f * normal(random);
    for (float& b : bias) b = 0.3f * normal(random);
  }
  Norm norm(NormKind kind, bool with_bias) const {
    return {kind, weight.data(), with_bias && kind == NormKind::layer ? bias.data() : nullptr, 1e-5f};
  }

  std::vector<float> weight, bias;
};

std::vector<double> normed(const Window& x, int64_t row, const Norm& norm) {
  const auto n = static_cast<double>(x.cols());
  double mean = 0, variance = 0;
  for (int64_t j = 0; norm.kind == NormKind::layer && j < x.cols(); ++j) mean += x.get(row, j) / n;
  for (int64_t j = 0; j < x.cols(); ++j) variance += (x.get(row, j) - mean) * (x.get(row, j) - mean) / n;
  std::vector<double> out;
  for (int64_t j = 0; j < x.cols(); ++j) {
    const double value = (x.get(row, j) - mean) / std::sqrt(variance + double{norm.eps}) * double{norm.weight[j]};
    out.push_back(value + (norm.bias ? double{norm.bias[j]} : 0.0));
  }
  return out;
}

void expect_normed(const Window& out, const Window& x, const Norm& norm) {
  std::vector<double> row;
  expect_rounded(
      out,
      [&](int64_t i, int64_t j) {
        if (j == 0) row = normed(x, i, norm);
        return row[static_cast<size_t>(j)];
      },
      2e-5);
}

/// check(kind, with bias, columns, tokens, margins)
void for_each_case(const std::function<void(NormKind, bool, int64_t, int64_t, Margins)>& check) {
  for (int64_t cols : kCols) {
    for (int64_t tokens : kTokens) {
      if (cols > 1030 && tokens > 7) continue;
      for (const Margins& margins : kMargins) {
        check(NormKind::rms, false, cols, tokens, margins);
        check(NormKind::layer, margins.before != 0, cols, tokens, margins);
      }
    }
  }
}

TEST(Norm, rows_are_normed) {
  std::mt19937 random(1);
  for_each_case([&](NormKind kind, bool with_bias, int64_t cols, int64_t tokens, Margins margins) {
    const Weights weights(cols, random);
    Window x = Window::random(DType::bf16, tokens, cols, margins, random, 2, 0.5f), out(DType::bf16, tokens, cols, margins);
    norm(test_queue(), out.view(), x.view(), weights.norm(kind, with_bias));
    synchronize();
    expect_normed(out, x, weights.norm(kind, with_bias));
  });
}

TEST(Norm, out_may_be_the_input) {
  std::mt19937 random(2);
  for (int64_t cols : kCols) {
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      const Weights weights(cols, random);
      Window x = Window::random(DType::bf16, 3, cols, {}, random), out(DType::bf16, 3, cols);
      norm(test_queue(), out.view(), x.view(), weights.norm(kind, true));
      norm(test_queue(), x.view(), x.view(), weights.norm(kind, true));
      synchronize();
      EXPECT_EQ(x, out) << cols;
    }
  }
}

TEST(Norm, add_norm_is_an_addition_and_a_norm_bit_for_bit) {
  std::mt19937 random(3);
  for_each_case([&](NormKind kind, bool with_bias, int64_t cols, int64_t tokens, Margins margins) {
    const Weights weights(cols, random);
    const Window before = Window::random(DType::bf16, tokens, cols, margins, random);
    Window x = Window::random(DType::bf16, tokens, cols, {margins.after, margins.before}, random);
    Window residual = before, out(DType::bf16, tokens, cols, margins), sum = before,
           expected(DType::bf16, tokens, cols, margins);
    add_norm(test_queue(), out.view(), residual.view(), x.view(), 0.7f, weights.norm(kind, with_bias));
    add(test_queue(), sum.view(), x.view(), 0.7f);
    norm(test_queue(), expected.view(), sum.view(), weights.norm(kind, with_bias));
    synchronize();
    ASSERT_EQ(residual, sum) << cols;
    ASSERT_EQ(out, expected) << cols;
    if (tokens <= 2) expect_normed(out, residual, weights.norm(kind, with_bias));
  });
}

TEST(Norm, out_of_add_norm_may_be_what_is_added) {
  std::mt19937 random(4);
  for (int64_t cols : kCols) {
    const Weights weights(cols, random);
    const Norm rms = weights.norm(NormKind::rms, false);
    const Window before = Window::random(DType::bf16, 2, cols, {}, random);
    Window x = Window::random(DType::bf16, 2, cols, {}, random), residual = before, again = before, out(DType::bf16, 2, cols);
    add_norm(test_queue(), out.view(), residual.view(), x.view(), 1, rms);
    add_norm(test_queue(), x.view(), again.view(), x.view(), 1, rms);
    synchronize();
    EXPECT_EQ(x, out) << cols;
    EXPECT_EQ(again, residual) << cols;
  }
}

TEST(Norm, bits_depend_on_the_row_alone) {
  std::mt19937 random(5);
  for (int64_t cols : {576, 1030, 3000, 5120, 9001}) {
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      const Weights weights(cols, random);
      const Norm args = weights.norm(kind, true);
      // more rows than are resident, so that blocks take several
      Window x = Window::random(DType::bf16, 40, cols, {}, random), all(DType::bf16, 40, cols);
      norm(test_queue(1), all.view(), x.view(), args);
      for (int64_t count : {1, 2, 7}) {
        Window part(DType::bf16, 40, cols);
        for (int64_t i = 0; i < 40; i += count) {
          const int64_t end = std::min<int64_t>(i + count, 40);
          norm(test_queue(), part.rows_view(i, end), x.rows_view(i, end), args);
        }
        synchronize();
        EXPECT_EQ(part, all) << cols << ", rows in steps of " << count;
      }
      // the same values in rows that are not aligned
      Window shifted(DType::bf16, 40, cols, {3, 2}), out(DType::bf16, 40, cols);
      for (int64_t i = 0; i < 40; ++i) {
        for (int64_t j = 0; j < cols; ++j) shifted.set(i, j, x.get(i, j));
      }
      norm(test_queue(), out.view(), shifted.view(), args);
      synchronize();
      EXPECT_EQ(out, all) << cols;
    }
  }
}

TEST(Norm, alignment_changes_no_bit) {
  std::mt19937 random(9);
  for (int64_t cols : {576, 3000, 5120, 9001}) {
    Weights weights(cols + 1, random);
    const Norm layer = weights.norm(NormKind::layer, true);
    Window first(DType::bf16, 2, cols), first_residual = first;
    for (int unaligned : {-1, 0, 1, 2, 3, 4}) {  // none, x, residual, out, weight, bias
      const auto margins = [&](int which) { return which == unaligned ? Margins{3, 2} : Margins{0, kWhole}; };
      std::mt19937 same(10);
      Window x = Window::random(DType::bf16, 2, cols, margins(0), same);
      Window residual = Window::random(DType::bf16, 2, cols, margins(1), same), out(DType::bf16, 2, cols, margins(2));
      Norm args = layer;
      std::vector<float> moved(weights.weight);
      if (unaligned == 3) std::copy_n(args.weight, cols, moved.data() + 1), args.weight = moved.data() + 1;
      if (unaligned == 4) std::copy_n(args.bias, cols, moved.data() + 1), args.bias = moved.data() + 1;
      add_norm(test_queue(), out.view(), residual.view(), x.view(), 0.5f, args);
      synchronize();
      for (int64_t i = 0; i < 2; ++i) {
        for (int64_t j = 0; j < cols; ++j) {
          if (unaligned < 0) first.set(i, j, out.get(i, j)), first_residual.set(i, j, residual.get(i, j));
          ASSERT_EQ(out.get(i, j), first.get(i, j)) << unaligned;
          ASSERT_EQ(residual.get(i, j), first_residual.get(i, j)) << unaligned;
        }
      }
    }
  }
}

TEST(Norm, no_schedule_changes_a_bit) {
  std::mt19937 random(6);
  for (int64_t cols : {576, 1030, 3000, 5120, 9001}) {
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      const Weights weights(cols, random);
      const Window before = Window::random(DType::bf16, 7, cols, {}, random);
      Window x = Window::random(DType::bf16, 7, cols, {}, random), first(DType::bf16, 7, cols);
      for (unsigned seed : kSchedules) {
        const ScheduleScope scope(seed);
        Window residual = before, out(DType::bf16, 7, cols);
        add_norm(test_queue(1), out.view(), residual.view(), x.view(), 0.5f, weights.norm(kind, true));
        synchronize();
        if (seed == 0) first = out;
        EXPECT_EQ(out, first) << "schedule " << seed;
      }
    }
  }
}

TEST(Norm, layer_norm_holds_far_from_zero) {
  std::mt19937 random(7);
  for (int64_t cols : {64, 3000, 4096}) {
    const Weights weights(cols, random);
    Window x(DType::bf16, 3, cols), out(DType::bf16, 3, cols);
    for (int64_t j = 0; j < cols; ++j) {
      x.set(0, j, 1000 + static_cast<float>(random() % 4) * 8);
      x.set(1, j, 3);
      x.set(2, j, j == 7 ? 1808.0f : 1800.0f);  // a mean in f32 is off by a thousandth of the deviation
    }
    const Norm layer = weights.norm(NormKind::layer, true);
    norm(test_queue(), out.view(), x.view(), layer);
    synchronize();
    expect_normed(out, x, layer);
  }
}

TEST(Norm, no_rows_are_no_launch) {
  std::mt19937 random(8);
  const Weights weights(64, random);
  Window x(DType::bf16, 0, 64);
  const uint64_t before = emu::num_launches();
  norm(test_queue(), x.view(), x.view(), weights.norm(NormKind::rms, false));
  add_norm(test_queue(), x.view(), x.view(), x.view(), 1, weights.norm(NormKind::rms, false));
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

}  // namespace
}  // namespace pagoda::cuda

// Norms, gated activations and row gathering on every instruction set against double-precision references, odd sizes and
// strides included.
#include <gtest/gtest.h>

#include <functional>

#include "cpu_support.h"

namespace pagoda {
namespace {

constexpr int kSizes[] = {1, 3, 15, 16, 17, 64, 100, 576, 1537};

double rms_norm_reference(const std::vector<float>& x, const std::vector<float>& weight, size_t row, size_t i, double eps) {
  const size_t n = weight.size();
  double squares = 0;
  for (size_t j = 0; j < n; ++j) squares += double{x[row * n + j]} * double{x[row * n + j]};
  return double{x[row * n + i]} / std::sqrt(squares / static_cast<double>(n) + eps) * double{weight[i]};
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu_tanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu:
      return x / 2 * std::erfc(-x / std::sqrt(2.0));
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::clamped_swiglu:
      break;
  }
  return 0;
}

/// Runs `test` with a backend of every instruction set of this machine.
void on_every_isa(const std::function<void(Backend&, const std::string&)>& test) {
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({2, isa});
    test(*backend, isa);
  }
}

TEST(CpuElementwise, rms_norm_matches_the_reference) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const int n : kSizes) {
      const int rows = 40;
      std::vector<float> x = test::random_floats(static_cast<size_t>(rows * n), 1, 3.0f), out(x.size());
      const std::vector<float> weight = test::random_floats(static_cast<size_t>(n), 2);
      backend.norm(test::matrix(out, rows, n), test::matrix(x, rows, n), {NormKind::rms, weight.data(), nullptr, 1e-5f});
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t width = static_cast<size_t>(n);
        EXPECT_NEAR(out[i], rms_norm_reference(x, weight, i / width, i % width, 1e-5), 4e-6) << isa << " n=" << n;
      }
    }
  });
}

TEST(CpuElementwise, add_rms_norm_adds_into_the_residual_and_norms_the_sum) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const int n : kSizes) {
      const int rows = 21;
      std::vector<float> x = test::random_floats(static_cast<size_t>(rows * n), 3), residual = test::random_floats(x.size(), 4);
      std::vector<float> sum(x.size()), out(x.size()), want(x.size());
      for (size_t i = 0; i < x.size(); ++i) sum[i] = residual[i] + x[i];
      const std::vector<float> weight = test::random_floats(static_cast<size_t>(n), 5);
      backend.add_norm(test::matrix(out, rows, n), test::matrix(residual, rows, n), test::matrix(x, rows, n), 1.0f,
                       {NormKind::rms, weight.data(), nullptr, 1e-6f});
      backend.norm(test::matrix(want, rows, n), test::matrix(sum, rows, n), {NormKind::rms, weight.data(), nullptr, 1e-6f});
      EXPECT_TRUE(test::same_bits(residual, sum)) << isa << " n=" << n;
      EXPECT_TRUE(test::same_bits(out, want)) << isa << " n=" << n;
    }
  });
}

TEST(CpuElementwise, gated_activations_match_the_reference_from_tail_to_tail) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
      for (const int n : kSizes) {
        const int rows = 9;
        std::vector<float> gate_up = test::random_floats(static_cast<size_t>(rows * 2 * n), 6, 4.0f);
        gate_up[0] = -200.0f;
        if (n > 2) gate_up[1] = 200.0f, gate_up[2] = 0.0f;
        std::vector<float> out(static_cast<size_t>(rows * n));
        backend.gated_activation(test::matrix(out, rows, n), test::matrix(gate_up, rows, 2 * n), activation);
        for (int r = 0; r < rows; ++r) {
          for (int i = 0; i < n; ++i) {
            const double gate = double{gate_up[static_cast<size_t>(r * 2 * n + i)]};
            const double up = double{gate_up[static_cast<size_t>(r * 2 * n + n + i)]};
            const double want = activate(activation, gate) * up;
            const double tolerance = 1e-6 * (1 + std::abs(gate)) * (0.1 + std::abs(up));
            EXPECT_NEAR(out[static_cast<size_t>(r * n + i)], want, tolerance)
                << isa << " activation " << static_cast<int>(activation) << " of " << gate << ", n=" << n;
          }
        }
      }
    }
  });
}

TEST(CpuElementwise, silu_is_accurate_to_a_few_ulps_over_its_whole_range) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    constexpr int kCount = 20000;
    std::vector<float> gate_up(2 * kCount, 1.0f), out(kCount);
    for (int i = 0; i < kCount; ++i) gate_up[static_cast<size_t>(i)] = -86.0f + 172.0f * static_cast<float>(i) / kCount;
    backend.gated_activation(test::matrix(out, 1, kCount), test::matrix(gate_up, 1, 2 * kCount), Activation::silu);
    for (int i = 0; i < kCount; ++i) {
      const double want = activate(Activation::silu, double{gate_up[static_cast<size_t>(i)]});
      ASSERT_NEAR(out[static_cast<size_t>(i)], want, 4e-7 * std::abs(want)) << isa << " at " << gate_up[static_cast<size_t>(i)];
    }
  });
}

TEST(CpuElementwise, a_nan_stays_in_its_row) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    std::vector<float> x = test::random_floats(3 * 50, 8), out(3 * 50), gated(3 * 25);
    x[50 + 7] = std::bit_cast<float>(0x7fffffffu);  // all payload bits set
    const std::vector<float> weight(50, 1.0f);
    backend.norm(test::matrix(out, 3, 50), test::matrix(x, 3, 50), {NormKind::rms, weight.data(), nullptr, 1e-5f});
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 50 == 1) << isa << " rms_norm at " << i;
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
      backend.gated_activation(test::matrix(gated, 3, 25), test::matrix(x, 3, 50), activation);
      for (size_t i = 0; i < gated.size(); ++i) EXPECT_EQ(std::isnan(gated[i]), i == 25 + 7) << isa << " activation at " << i;
    }
  });
}

TEST(CpuElementwise, a_row_has_the_same_bits_alone_and_in_a_batch_and_on_avx2_and_avx512) {
  const int rows = 700, n = 100;
  std::vector<float> x = test::random_floats(static_cast<size_t>(rows * 2 * n), 9);
  const std::vector<float> weight = test::random_floats(2 * n, 10);
  std::vector<std::vector<float>> results;
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({3, isa});
    std::vector<float> normed(x.size()), gated(x.size() / 2), one(2 * n), one_gated(n);
    backend->norm(test::matrix(normed, rows, 2 * n), test::matrix(x, rows, 2 * n),
                  {NormKind::rms, weight.data(), nullptr, 1e-5f});
    backend->gated_activation(test::matrix(gated, rows, n), test::matrix(x, rows, 2 * n), Activation::gelu);
    for (int r = 0; r < rows; r += 99) {
      const Tensor row = Tensor::dense(x.data() + r * 2 * n, DType::f32, {1, 2 * n});
      backend->norm(test::matrix(one, 1, 2 * n), row, {NormKind::rms, weight.data(), nullptr, 1e-5f});
      backend->gated_activation(test::matrix(one_gated, 1, n), row, Activation::gelu);
      EXPECT_EQ(std::memcmp(one.data(), normed.data() + r * 2 * n, sizeof(float) * 2 * n), 0) << isa;
      EXPECT_EQ(std::memcmp(one_gated.data(), gated.data() + r * n, sizeof(float) * n), 0) << isa;
    }
    normed.insert(normed.end(), gated.begin(), gated.end());
    if (isa != "portable") results.push_back(normed);
  }
  for (size_t i = 1; i < results.size(); ++i) EXPECT_TRUE(test::same_bits(results[0], results[i]));
}

TEST(CpuElementwise, gather_rows_copies_rows_of_a_strided_tensor) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    std::vector<float> x = test::random_floats(10 * 7, 11), out(3 * 4);
    const int32_t rows[] = {9, 0, 9};
    backend.gather_rows(test::matrix(out, 3, 4), test::matrix(x, 10, 7).columns(2, 6), rows);
    for (size_t r = 0; r < 3; ++r) {
      for (size_t i = 0; i < 4; ++i) EXPECT_EQ(out[r * 4 + i], x[static_cast<size_t>(rows[r]) * 7 + 2 + i]) << isa;
    }
  });
}

}  // namespace
}  // namespace pagoda

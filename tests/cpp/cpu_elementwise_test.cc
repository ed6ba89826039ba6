// Norms, additions, scales, activations and row gathering on every instruction set against double-precision references, odd
// sizes and strides included.
#include <gtest/gtest.h>

#include <functional>

#include "cpu_support.h"

namespace pagoda {
namespace {

constexpr int kSizes[] = {1, 3, 15, 16, 17, 64, 100, 576, 1537};

/// norm(x[n]) in double precision.
std::vector<double> norm_reference(const float* x, const Norm& norm, int n) {
  const double mean = norm.kind == NormKind::layer ? std::accumulate(x, x + n, 0.0) / n : 0;
  double squares = 0;
  for (int i = 0; i < n; ++i) squares += (double{x[i]} - mean) * (double{x[i]} - mean);
  const double inverse = 1 / std::sqrt(squares / n + double{norm.eps});
  std::vector<double> out;
  for (int i = 0; i < n; ++i) {
    out.push_back((double{x[i]} - mean) * inverse * double{norm.weight[i]} + (norm.bias ? double{norm.bias[i]} : 0.0));
  }
  return out;
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
  return std::numeric_limits<double>::quiet_NaN();
}

double gate(Activation activation, double gate, double up) {
  if (activation != Activation::clamped_swiglu) return activate(activation, gate) * up;
  const double g = std::min(gate, 7.0), u = std::clamp(up, -7.0, 7.0);
  return g / (1 + std::exp(-1.702 * g)) * (u + 1);
}

/// Runs `test` with a backend of every instruction set of this machine.
void on_every_isa(const std::function<void(Backend&, const std::string&)>& test) {
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({2, isa});
    test(*backend, isa);
  }
}

/// Every kind of norm, over the same weights.
std::vector<Norm> all_norms(const std::vector<float>& weight, const std::vector<float>& bias) {
  return {{NormKind::rms, weight.data(), nullptr, 1e-5f},
          {NormKind::layer, weight.data(), nullptr, 1e-5f},
          {NormKind::layer, weight.data(), bias.data(), 1e-5f}};
}

TEST(CpuElementwise, norms_match_the_reference) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const int n : kSizes) {
      const int rows = 40;
      std::vector<float> x = test::random_floats(static_cast<size_t>(rows * n), 1, 3.0f), out(x.size());
      const std::vector<float> weight = test::random_floats(static_cast<size_t>(n), 2),
                               bias = test::random_floats(weight.size(), 3);
      for (const Norm& norm : all_norms(weight, bias)) {
        backend.norm(test::matrix(out, rows, n), test::matrix(x, rows, n), norm);
        for (int r = 0; r < rows; ++r) {
          const std::vector<double> want = norm_reference(x.data() + r * n, norm, n);
          for (int i = 0; i < n; ++i) {
            ASSERT_NEAR(out[static_cast<size_t>(r * n + i)], want[static_cast<size_t>(i)], 6e-6) << isa << " n=" << n;
          }
        }
      }
    }
  });
}

TEST(CpuElementwise, a_large_mean_costs_layer_norm_no_accuracy) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const float mean : {100.0f, -3e4f, 1e6f}) {
      for (const int n : {5, 576, 1537}) {
        std::vector<float> x = test::random_floats(static_cast<size_t>(n), 1), out(x.size());
        for (float& value : x) value += mean;
        const std::vector<float> weight(x.size(), 1.0f);
        const Norm norm{NormKind::layer, weight.data(), nullptr, 1e-5f};
        backend.norm(test::matrix(out, 1, n), test::matrix(x, 1, n), norm);
        const std::vector<double> want = norm_reference(x.data(), norm, n);
        for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], want[i], 6e-6) << isa << " n=" << n << " mean " << mean;
      }
    }
  });
}

TEST(CpuElementwise, equal_values_are_layer_normed_to_the_bias) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const float equal : {0.1f, -7e3f, 1.2345679e8f}) {
      std::vector<float> x(1537, equal), out(x.size());
      const std::vector<float> weight(x.size(), 1.0f), bias(x.size(), 0.75f);
      backend.norm(test::matrix(out, 1, 1537), test::matrix(x, 1, 1537), {NormKind::layer, weight.data(), bias.data(), 1e-5f});
      for (const float value : out) ASSERT_NEAR(value, 0.75f, 1e-3) << isa << " of " << equal;
    }
  });
}

TEST(CpuElementwise, a_norm_in_place_changes_only_its_view_of_the_rows) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    const int rows = 5, stride = 120, begin = 7, n = 99;
    const std::vector<float> weight = test::random_floats(n, 1), bias = test::random_floats(n, 2);
    for (const Norm& norm : all_norms(weight, bias)) {
      std::vector<float> x = test::random_floats(rows * stride, 3), dense(rows * n);
      const std::vector<float> before = x;
      const Tensor view = test::matrix(x, rows, stride).columns(begin, begin + n);
      backend.norm(test::matrix(dense, rows, n), view, norm);
      backend.norm(view, view, norm);
      for (int i = 0; i < rows * stride; ++i) {
        const int row = i / stride, column = i % stride - begin;
        const bool inside = column >= 0 && column < n;
        ASSERT_EQ(x[static_cast<size_t>(i)],
                  inside ? dense[static_cast<size_t>(row * n + column)] : before[static_cast<size_t>(i)])
            << isa << " row " << row << " column " << column;
      }
    }
  });
}

TEST(CpuElementwise, add_scales_what_it_adds_to_the_residual) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const float scale : {1.0f, 0.22f, -3.0f, 0.0f}) {
      const int rows = 30, n = 577;
      std::vector<float> x = test::random_floats(rows * n, 3), residual = test::random_floats(x.size(), 4);
      const std::vector<float> before = residual;
      backend.add(test::matrix(residual, rows, n), test::matrix(x, rows, n), scale);
      for (size_t i = 0; i < x.size(); ++i) {
        const double want = double{before[i]} + double{scale} * double{x[i]};
        ASSERT_NEAR(residual[i], want, 3e-7 * (std::abs(want) + std::abs(double{x[i]}))) << isa << " scale " << scale;
      }
    }
  });
}

TEST(CpuElementwise, add_norm_is_an_addition_and_a_norm_bit_by_bit) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const int n : kSizes) {
      const int rows = 21;
      std::vector<float> x = test::random_floats(static_cast<size_t>(rows * n), 3);
      const std::vector<float> weight = test::random_floats(static_cast<size_t>(n), 5),
                               bias = test::random_floats(weight.size(), 6);
      for (const float scale : {1.0f, 0.22f}) {
        for (const Norm& norm : all_norms(weight, bias)) {
          std::vector<float> residual = test::random_floats(x.size(), 4), sum = residual, out(x.size()), want(x.size());
          backend.add_norm(test::matrix(out, rows, n), test::matrix(residual, rows, n), test::matrix(x, rows, n), scale, norm);
          backend.add(test::matrix(sum, rows, n), test::matrix(x, rows, n), scale);
          backend.norm(test::matrix(want, rows, n), test::matrix(sum, rows, n), norm);
          EXPECT_TRUE(test::same_bits(residual, sum)) << isa << " n=" << n << " scale " << scale;
          EXPECT_TRUE(test::same_bits(out, want)) << isa << " n=" << n << " scale " << scale;
        }
      }
    }
  });
}

TEST(CpuElementwise, scale_multiplies_and_bends_towards_its_cap) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const auto& [factor, cap] : {std::pair{0.125f, 0.0f}, {-2.0f, 0.0f}, {1.0f, 30.0f}, {0.5f, 2.0f}, {1e6f, 50.0f}}) {
      for (const int n : kSizes) {
        const int rows = 6, stride = n + 5;
        std::vector<float> x = test::random_floats(static_cast<size_t>(rows * stride), 7, 20.0f);
        x[0] = 3e38f, x[2] = 0.0f;
        const std::vector<float> before = x;
        backend.scale(test::matrix(x, rows, stride).columns(2, 2 + n), factor, cap);
        for (int i = 0; i < rows * stride; ++i) {
          const int column = i % stride - 2;
          const double value = double{before[static_cast<size_t>(i)]}, scaled = value * double{factor};
          const double bent = cap > 0 ? double{cap} * std::tanh(scaled / double{cap}) : scaled;
          const double tolerance = cap > 0 ? 4e-7 * double{cap} : 1e-7 * std::abs(scaled);
          const bool inside = column >= 0 && column < n;
          ASSERT_NEAR(x[static_cast<size_t>(i)], inside ? bent : value, inside ? tolerance : 0)
              << isa << " factor " << factor << " cap " << cap << " column " << column;
        }
      }
    }
  });
}

constexpr Activation kUngated[] = {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu};
constexpr Activation kGated[] = {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu,
                                 Activation::clamped_swiglu};

/// Random values around 0 with the ends of the range and the edges of clamped_swiglu among them.
std::vector<float> activation_inputs(int count) {
  std::vector<float> values = test::random_floats(static_cast<size_t>(count), 6, 4.0f);
  const float edges[] = {-200.0f, 200.0f, 0.0f, 7.0f, -7.0f, 7.5f, -7.5f, -1e4f};
  std::copy_n(edges, std::min<size_t>(std::size(edges), values.size()), values.begin());
  return values;
}

TEST(CpuElementwise, gated_activations_match_the_reference_from_tail_to_tail) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const Activation activation : kGated) {
      for (const int n : kSizes) {
        const int rows = 9;
        std::vector<float> gate_up = activation_inputs(rows * 2 * n), out(static_cast<size_t>(rows * n));
        backend.gated_activation(test::matrix(out, rows, n), test::matrix(gate_up, rows, 2 * n), activation);
        for (int r = 0; r < rows; ++r) {
          for (int i = 0; i < n; ++i) {
            const double g = double{gate_up[static_cast<size_t>(r * 2 * n + i)]};
            const double up = double{gate_up[static_cast<size_t>(r * 2 * n + n + i)]};
            const double tolerance = 1e-6 * (1 + std::abs(g)) * (0.1 + std::abs(up));
            EXPECT_NEAR(out[static_cast<size_t>(r * n + i)], gate(activation, g, up), tolerance)
                << isa << " activation " << static_cast<int>(activation) << " of " << g << " and " << up << ", n=" << n;
          }
        }
      }
    }
  });
}

TEST(CpuElementwise, plain_activations_match_the_reference_in_a_strided_view) {
  on_every_isa([](Backend& backend, const std::string& isa) {
    for (const Activation activation : kUngated) {
      for (const int n : kSizes) {
        const int rows = 5, stride = n + 3;
        std::vector<float> x = activation_inputs(rows * stride);
        const std::vector<float> before = x;
        backend.activation(test::matrix(x, rows, stride).columns(0, n), activation);
        for (size_t i = 0; i < x.size(); ++i) {
          const double value = double{before[i]};
          const double want = static_cast<int>(i) % stride < n ? activate(activation, value) : value;
          EXPECT_NEAR(x[i], want, 1e-6 * (1 + std::abs(value)))
              << isa << " activation " << static_cast<int>(activation) << " of " << value << ", n=" << n;
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
    for (const Norm& norm : all_norms(weight, weight)) {
      backend.norm(test::matrix(out, 3, 50), test::matrix(x, 3, 50), norm);
      for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 50 == 1) << isa << " norm at " << i;
    }
    for (const Activation activation : kGated) {
      backend.gated_activation(test::matrix(gated, 3, 25), test::matrix(x, 3, 50), activation);
      for (size_t i = 0; i < gated.size(); ++i) EXPECT_EQ(std::isnan(gated[i]), i == 25 + 7) << isa << " activation at " << i;
    }
    for (const Activation activation : kUngated) {
      out = x;
      backend.activation(test::matrix(out, 3, 50), activation);
      for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i == 50 + 7) << isa << " activation at " << i;
    }
    backend.scale(test::matrix(x, 3, 50), 2.0f, 30.0f);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(std::isnan(x[i]), i == 50 + 7) << isa << " scale at " << i;
  });
}

/// The results of every operation on rows [begin, end) of x[., 200], one after the other for each row.
std::vector<float> run_all(Backend& backend, const std::vector<float>& x, size_t begin, size_t end) {
  constexpr size_t kWidth = 200;
  const std::vector<float> weight = test::random_floats(kWidth, 10), bias = test::random_floats(kWidth, 11);
  const auto rows = static_cast<int64_t>(end - begin);
  std::vector<std::vector<float>> results;  // of each operation, [rows, width]
  const std::vector<float> input(x.begin() + static_cast<int64_t>(begin * kWidth),
                                 x.begin() + static_cast<int64_t>(end * kWidth));
  const auto apply = [&](size_t width, const auto& operation) {
    std::vector<float> in = input, out(static_cast<size_t>(rows) * width);
    operation(test::matrix(out, rows, static_cast<int64_t>(width)), test::matrix(in, rows, kWidth));
    results.push_back(std::move(out));
  };
  for (const Norm& norm : all_norms(weight, bias)) {
    apply(kWidth, [&](const Tensor& out, const Tensor& in) { backend.norm(out, in, norm); });
    apply(kWidth, [&](const Tensor& out, const Tensor& in) { backend.add_norm(out, in, in, 0.3f, norm); });
  }
  for (const Activation activation : kGated) {
    apply(kWidth / 2, [&](const Tensor& out, const Tensor& in) { backend.gated_activation(out, in, activation); });
  }
  const auto in_place = [&](const auto& operation) {
    results.push_back(input);
    operation(test::matrix(results.back(), rows, kWidth));
  };
  for (const Activation activation : kUngated) in_place([&](const Tensor& t) { backend.activation(t, activation); });
  in_place([&](const Tensor& t) { backend.scale(t, 0.7f, 0); });
  in_place([&](const Tensor& t) { backend.scale(t, 0.7f, 5.0f); });
  std::vector<float> all;
  for (size_t r = 0; r < end - begin; ++r) {
    for (const std::vector<float>& result : results) {
      const size_t width = result.size() / (end - begin);
      all.insert(all.end(), result.begin() + static_cast<int64_t>(r * width),
                 result.begin() + static_cast<int64_t>((r + 1) * width));
    }
  }
  return all;
}

TEST(CpuElementwise, a_row_has_the_same_bits_alone_and_in_a_batch_and_on_avx2_and_avx512) {
  const size_t rows = 700;
  const std::vector<float> x = test::random_floats(rows * 200, 9, 3.0f);
  std::vector<std::vector<float>> results;
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({3, isa});
    const std::vector<float> all = run_all(*backend, x, 0, rows);
    const size_t width = all.size() / rows;
    for (size_t r = 0; r < rows; r += 99) {
      const std::vector<float> alone = run_all(*backend, x, r, r + 1);
      EXPECT_EQ(std::memcmp(alone.data(), &all[r * width], sizeof(float) * width), 0) << isa;
    }
    if (isa != "portable") results.push_back(all);
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

// The CPU's matrix product at the edges: codes and scales as large, as small and as broken as a file can hold, and inputs that
// are zero, tiny or not finite. What is broken stays in its row or column.
#include <limits>

#include "cpu_linear_support.h"

namespace pagoda::cpu {
namespace {

TEST(LinearExtremes, the_largest_codes_do_not_saturate) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    if (!is_quantised(format)) return;
    const WeightFormatInfo info = weight_format_info(format);
    for (int fill : {0x00, 0x7f, 0x80, 0xff}) {
      if (format == WeightFormat::f8_e4m3 && (fill & 0x7f) == 0x7f) --fill;  // the largest number, not NaN
      Matrix m = make_matrix({{format, 16}}, info.block_values * 2, pool);
      for (size_t at = 0; at < m.stored[0].size(); at += info.block_bytes) {
        std::byte* block = &m.stored[0][at];
        std::memset(block, fill, info.block_bytes);
        set_scales(format, block, 0.01f, 0.02f);
        if (format == WeightFormat::mxfp4) block[0] = std::byte{127};
        if (format == WeightFormat::int4) put(block + 4, fill < 0x80 ? 16.0f : 0.0f);
      }
      m.pack(pool);
      for (const float value : {-3.0f, 3.0f}) {
        std::vector<float> x(static_cast<size_t>(3 * m.cols()), value);
        for (size_t i = static_cast<size_t>(2 * m.cols()); i < x.size(); i += 2) x[i] = -value;
        expect_close(kernels, m, x, multiply(kernels, pool, m, x));
      }
    }
  });
}

TEST(LinearExtremes, zero_tiny_and_non_finite_inputs_stay_in_their_row) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 20}}, cols_for(format, 64), pool);
    const auto k = static_cast<size_t>(m.cols());
    std::vector<float> x = random_input(6 * m.cols());
    const std::vector<float> normal = multiply(kernels, pool, m, x);
    std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(k), k, 0.0f);
    std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(2 * k), k, 1e-40f);
    x[3 * k + 7] = NAN;
    x[4 * k + 40] = INFINITY;
    const std::vector<float> out = multiply(kernels, pool, m, x);
    for (size_t j = 0; j < 20; ++j) {
      EXPECT_EQ(out[20 + j], 0.0f);
      EXPECT_NEAR(out[40 + j], 0.0f, 1e-36f);
      EXPECT_TRUE(std::isnan(out[60 + j]));
      EXPECT_FALSE(std::isfinite(out[80 + j]));
    }
    EXPECT_TRUE(same_bits(out.data(), normal.data(), 20));
    EXPECT_TRUE(same_bits(out.data() + 100, normal.data() + 100, 20));
  });
}

/// A matrix whose second block of row 5 has this scale and minimum.
Matrix with_scales(WeightFormat format, float d, float m, ThreadPool& pool) {
  const WeightFormatInfo info = weight_format_info(format);
  Matrix matrix = make_matrix({{format, 20}}, info.block_values * 3, pool);
  set_scales(format, &matrix.stored[0][5 * weight_row_bytes(format, matrix.cols()) + info.block_bytes], d, m);
  matrix.pack(pool);
  return matrix;
}

class LinearExtremesOfSet : public OfKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, LinearExtremesOfSet, testing::ValuesIn(kernel_sets()), name_of_set);

TEST_P(LinearExtremesOfSet, subnormal_zero_and_negative_scales_are_exact) {
  ThreadPool pool(2);
  for_each_case(GetParam(), [&](const LinearKernels& kernels, WeightFormat format) {
    if (!is_quantised(format) || format == WeightFormat::mxfp4) return;
    for (const float d : {0x1p-24f, -0x1p-24f, 0.0f, -0.05f, 0x1.ffcp-15f}) {
      for (const float min : {0.0f, -0x1p-24f}) {
        const Matrix m = with_scales(format, d, min, pool);
        const std::vector<float> x = random_input(3 * m.cols());
        expect_close(kernels, m, x, multiply(kernels, pool, m, x));
      }
    }
  });
}

TEST_P(LinearExtremesOfSet, scales_that_are_not_finite_stay_in_their_column) {
  ThreadPool pool(2);
  for_each_case(GetParam(), [&](const LinearKernels& kernels, WeightFormat format) {
    if (!is_quantised(format) || format == WeightFormat::mxfp4) return;
    const std::vector<float> x = random_input(9 * weight_format_info(format).block_values * 3);
    const std::vector<float> normal = multiply(kernels, pool, with_scales(format, 0.01f, 0.01f, pool), x);
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      for (const bool in_minimum : {false, true}) {
        if (in_minimum && scale_places(format).m < 0) continue;
        const Matrix m = with_scales(format, in_minimum ? 0.01f : bad, in_minimum ? bad : 0.01f, pool);
        const std::vector<float> out = multiply(kernels, pool, m, x);
        for (size_t i = 0; i < out.size(); ++i) {
          if (i % 20 == 5) {
            EXPECT_FALSE(std::isfinite(out[i])) << out[i];
          } else {
            EXPECT_TRUE(same_bits(&out[i], &normal[i], 1));
          }
        }
      }
    }
  });
}

TEST(LinearExtremes, infinite_scales_give_a_row_the_same_bits_alone_and_beside_rows_with_outliers) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    if (!takes_quantised_input(format) || format == WeightFormat::mxfp4) return;
    const Matrix m = with_scales(format, INFINITY, 0.01f, pool);
    const int64_t k = m.cols(), num_rows = 18;
    std::vector<float> x = random_input(num_rows * k);
    for (int64_t row = 0; row < num_rows; ++row) {
      if (row % 6 > 0)
        x[static_cast<size_t>(row * k + k / 3 + row % 32)] = 50;  // five rows of six, so that tiles are visited as a whole
    }
    const std::vector<float> together = multiply(kernels, pool, m, x);
    for (int64_t row = 0; row < num_rows; ++row) {
      const std::vector<float> one(x.begin() + row * k, x.begin() + (row + 1) * k);
      EXPECT_TRUE(same_bits(multiply(kernels, pool, m, one).data(), &together[static_cast<size_t>(row * m.rows())], m.rows()))
          << "row " << row;
    }
  });
}

TEST(LinearExtremes, mxfp4_exponents_multiply_up_to_where_their_values_overflow) {
  ThreadPool pool(2);
  constexpr size_t kLargest = 251;  // 12 * 2^(251 - 128) is the last value that fits a float
  for_each_kernels([&](const LinearKernels& kernels) {
    Matrix m = make_matrix({{WeightFormat::mxfp4, kLargest + 1}}, 32, pool);
    for (size_t e = 0; e <= kLargest; ++e) {
      m.stored[0][e * weight_format_info(WeightFormat::mxfp4).block_bytes] = static_cast<std::byte>(e);
    }
    m.pack(pool);
    std::vector<float> x = random_input(2 * 32);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= i < 32 ? 0x1p-10f : 0x1p-90f;
    expect_close(kernels, m, x, multiply(kernels, pool, m, x));
  });
}

TEST(LinearExtremes, every_e4m3_code_is_multiplied_as_its_number_and_nan_stays_in_its_column) {
  ThreadPool pool(2);
  for_each_kernels([&](const LinearKernels& kernels) {
    Matrix m = make_matrix({{WeightFormat::f8_e4m3, 256}}, 32, pool);
    for (size_t code = 0; code < 256; ++code) {
      std::byte* block = &m.stored[0][code * 36];
      std::fill_n(block + 4, 32, std::byte{0});
      block[4 + code % 32] = static_cast<std::byte>(code);
      put(block, 3.0f);
    }
    m.pack(pool);
    std::vector<float> x(3 * 32, 1.0f);
    const std::vector<float> out = multiply(kernels, pool, m, x);
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t code = i % 256;
      const float expected = m.values[code * 32 + code % 32];
      if (code % 128 == 127) {
        EXPECT_TRUE(std::isnan(out[i])) << code;
      } else {
        EXPECT_EQ(out[i], expected) << code;
      }
    }
  });
}

}  // namespace
}  // namespace pagoda::cpu

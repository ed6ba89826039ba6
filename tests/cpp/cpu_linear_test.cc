// The CPU's matrix product and embedding look-up: every format on every instruction set of this machine, against double
// precision references, and the equations that make results independent of batch, threads and strides.
#include "cpu_linear_support.h"

namespace pagoda::cpu {
namespace {

/// Cases of (rows, cols) that a format can have: odd row counts, and odd cols for plain floats.
std::vector<std::pair<int64_t, int64_t>> shapes(WeightFormat format) {
  const int64_t block = weight_format_info(format).block_values;
  if (block == 1) return {{1, 1}, {17, 7}, {37, 33}, {50, 190}};
  if (block == 256) return {{1, 256}, {35, 768}};
  return {{1, 32}, {37, 96}, {65, 576}};
}

class LinearOfSet : public OfKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, LinearOfSet, testing::ValuesIn(kernel_sets()), name_of_set);

TEST_P(LinearOfSet, products_match_a_double_precision_reference) {
  ThreadPool pool(2);
  for_each_case(GetParam(), [&](const LinearKernels& kernels, WeightFormat format) {
    for (const auto& [n, k] : shapes(format)) {
      const Matrix m = make_matrix({{format, n}}, k, pool);
      for (const int64_t t : {1, 2, 3, 7, 8, 16, 33}) {
        const std::vector<float> x = random_input(t * k);
        expect_close(kernels, m, x, multiply(kernels, pool, m, x));
      }
    }
  });
}

TEST_P(LinearOfSet, outliers_match_a_double_precision_reference) {
  ThreadPool pool(2);
  for_each_case(GetParam(), [&](const LinearKernels& kernels, WeightFormat format) {
    const int64_t k = cols_for(format, 288);
    const Matrix m = make_matrix({{format, 37}}, k, pool);
    for (const int64_t t : {1, 4, 7, 16}) {
      const std::vector<float> x = input_with_outliers(t * k);
      expect_close(kernels, m, x, multiply(kernels, pool, m, x));
    }
  });
}

TEST_P(LinearOfSet, a_row_has_the_same_bits_alone_and_in_any_batch) {
  ThreadPool pool(2);
  for_each_case(GetParam(), [&](const LinearKernels& kernels, WeightFormat format) {
    const int64_t n = 37, k = cols_for(format, 1280);
    const Matrix m = make_matrix({{format, n}}, k, pool);
    const std::vector<float> x = input_with_outliers(131 * k);
    std::vector<float> alone;
    for (int64_t i = 0; i < 131; ++i) {
      const std::vector<float> row(x.begin() + i * k, x.begin() + (i + 1) * k);
      const std::vector<float> out = multiply(kernels, pool, m, row);
      alone.insert(alone.end(), out.begin(), out.end());
    }
    for (const int64_t t : {2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 131}) {
      const std::vector<float> batch(x.begin(), x.begin() + t * k);
      EXPECT_TRUE(same_bits(multiply(kernels, pool, m, batch).data(), alone.data(), t * n)) << t << " rows";
    }
  });
}

TEST(Linear, wide_inputs_are_cut_into_blocks_of_rows_that_change_nothing) {
  ThreadPool pool(2);
  const int64_t n = 20, k = 8192;
  const LinearKernels kernels = default_kernels();
  const Matrix m = make_matrix({{WeightFormat::q8_0, n}}, k, pool);
  const std::vector<float> x = random_input(41 * k);
  const std::vector<float> all = multiply(kernels, pool, m, x);
  expect_close(kernels, m, x, all);
  for (const int64_t t : {12, 13, 24, 25, 40}) {
    const std::vector<float> batch(x.begin(), x.begin() + t * k);
    EXPECT_TRUE(same_bits(multiply(kernels, pool, m, batch).data(), all.data(), t * n)) << t << " rows";
  }
}

TEST_P(LinearOfSet, one_thread_and_many_give_the_same_bits) {
  ThreadPool one(1), two(2), three(3);
  for_each_case(GetParam(), [&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 200}}, cols_for(format, 224), two);
    for (const int64_t t : {1, 33, 65}) {
      const std::vector<float> x = input_with_outliers(t * m.cols());
      const std::vector<float> expected = multiply(kernels, one, m, x);
      EXPECT_TRUE(same_bits(multiply(kernels, two, m, x).data(), expected.data(), t * 200));
      EXPECT_TRUE(same_bits(multiply(kernels, three, m, x).data(), expected.data(), t * 200));
    }
  });
}

TEST_P(LinearOfSet, rows_that_each_thread_has_of_its_own_keep_their_bits) {
  ThreadPool one(1), two(2), three(3);
  for_each_kernels(GetParam(), [&](const LinearKernels& kernels) {
    // Only spans are shared out so; the others get one case of as many rows.
    const bool spans = kernels.span_rows > 0;
    const std::vector<int64_t> counts = spans ? std::vector<int64_t>{383, 384, 560, 577, 590, 1203} : std::vector<int64_t>{384};
    // 190 and 1290 columns end in a part of a block, 1290 and 1280 are several chunks; 37 rows end in a part of a panel.
    using Parts = std::vector<PartSpec>;
    for (const auto& [parts, k] : {std::pair{Parts{{WeightFormat::bf16, 37}}, int64_t{190}},
                                   {Parts{{WeightFormat::bf16, 37}}, 1290},
                                   {Parts{{WeightFormat::q4_0, 37}}, 1280},
                                   {Parts{{WeightFormat::q6_k, 37}}, 256},
                                   {Parts{{WeightFormat::bf16, 16}, {WeightFormat::q4_0, 21}}, 608}}) {
      SCOPED_TRACE(str(parts.size(), " parts, ", weight_format_info(parts[0].format).name, ", ", k, " columns"));
      const int64_t n = 37, rows = counts.back();
      const Matrix m = make_matrix(parts, k, two);
      const std::vector<float> x = input_with_outliers(rows * k), bias = random_input(n, 9);
      std::vector<float> expected;
      for (int64_t begin = 0; begin < rows; begin += 16) {
        const std::vector<float> few(x.begin() + begin * k, x.begin() + std::min(begin + 16, rows) * k);
        const std::vector<float> out = multiply(kernels, one, m, few, bias.data());
        expected.insert(expected.end(), out.begin(), out.end());
      }
      for (const int64_t t : counts) {
        const std::vector<float> batch(x.begin(), x.begin() + t * k);
        for (ThreadPool* pool : {&one, &two, &three}) {
          EXPECT_TRUE(same_bits(multiply(kernels, *pool, m, batch, bias.data()).data(), expected.data(), t * n))
              << t << " rows, " << pool->num_threads() << " threads";
        }
      }
    }
  });
}

TEST(Linear, strided_rows_equal_dense_rows_and_gaps_stay_untouched) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 37}}, cols_for(format, 96), pool);
    for (const int64_t t : {1, 9}) {
      const std::vector<float> x = random_input(t * m.cols());
      const std::vector<float> dense = multiply(kernels, pool, m, x);
      EXPECT_TRUE(same_bits(multiply(kernels, pool, m, x, nullptr, {5, 3}).data(), dense.data(), t * 37));
    }
  });
}

TEST(Linear, bias_is_added_to_every_row) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 37}, {format, 5}}, cols_for(format, 64), pool);
    const std::vector<float> x = random_input(9 * m.cols()), bias = random_input(42, 7);
    expect_close(kernels, m, x, multiply(kernels, pool, m, x, bias.data()), bias.data());
  });
}

TEST(Linear, parts_of_all_formats_stack_in_order) {
  ThreadPool pool(2);
  std::vector<PartSpec> specs;
  for (const WeightFormat format : all_formats()) {
    const auto i = static_cast<int64_t>(format);
    specs.push_back({format, 1 + i * 11 % 35, i % 3 == 0});
  }
  const Matrix m = make_matrix(specs, 256, pool);
  for_each_kernels([&](const LinearKernels& kernels) {
    for (const int64_t t : {1, 3, 20}) {
      const std::vector<float> x = random_input(t * 256);
      expect_close(kernels, m, x, multiply(kernels, pool, m, x));
    }
  });
}

TEST(Linear, vector_instruction_sets_agree_bitwise_where_the_input_is_not_rounded) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    if (input_form(kernels, format) == InputForm::rounded || format == WeightFormat::bf16) return;
    if (kernels.isa == Isa::portable && detect_isa() != Isa::portable) return;  // has no fused multiply-add
    const Matrix m = make_matrix({{format, 53}}, cols_for(format, 608), pool);
    const std::vector<float> x = input_with_outliers(13 * m.cols());
    const InputPrecision precision = kernels.precision == InputPrecision::bf16 ? InputPrecision::mixed : kernels.precision;
    const std::vector<float> widest = multiply(linear_kernels(std::min(detect_isa(), Isa::avx512), precision), pool, m, x);
    EXPECT_TRUE(same_bits(multiply(kernels, pool, m, x).data(), widest.data(), 13 * 53));
  });
}

TEST(Linear, zero_rows_are_allowed) {
  ThreadPool pool(2);
  const Matrix m = make_matrix({{WeightFormat::q4_1, 20}}, 64, pool);
  EXPECT_TRUE(multiply(default_kernels(), pool, m, {}).empty());
}

TEST(Embed, rows_come_back_exactly_as_the_file_defines_them) {
  ThreadPool pool(2);
  for (const WeightFormat format : all_formats()) {
    SCOPED_TRACE(weight_format_info(format).name);
    for (const bool shuffled : {false, true}) {
      const int64_t k = cols_for(format, 320);
      const Matrix m = make_matrix({{format, 37, shuffled}, {WeightFormat::f16, 3}}, k, pool);
      for (const int repeats : {1, 3}) {  // a short and a long list
        std::vector<int32_t> ids;
        for (int i = 0; i < 40 * repeats; ++i) ids.push_back((i * 7) % 40);
        std::vector<float> out(ids.size() * static_cast<size_t>(k + 2));
        embed(pool, Tensor{out.data(), DType::f32, {static_cast<int64_t>(ids.size()), k}, k + 2}, m.weight, ids.data());
        for (size_t i = 0; i < ids.size(); ++i) {
          EXPECT_TRUE(same_bits(&out[i * static_cast<size_t>(k + 2)], &m.values[static_cast<size_t>(ids[i] * k)], k)) << ids[i];
        }
      }
    }
  }
}

}  // namespace
}  // namespace pagoda::cpu

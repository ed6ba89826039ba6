// Products of weights and rows in e4m3 by (an emulated) cuBLASLt, and how the rows come to be in e4m3.
#include <cmath>
#include <cstring>

#include "cuda/gemm_probe.h"
#include "cuda/quantise_rows.h"
#include "gemm_support.h"
#include "io/code_values.h"
#include "matrix_support.h"

namespace pagoda::cuda {
namespace {

struct QuantisedRows {
  QuantisedRows(int64_t rows, int64_t cols)
      : cols(cols), codes(static_cast<size_t>(rows * cols), 0x7f), scales(static_cast<size_t>(rows), NAN) {}

  float value(int64_t row, int64_t col) const { return e4m3_to_float(codes[static_cast<size_t>(row * cols + col)]); }
  float scale(int64_t row) const { return scales[static_cast<size_t>(row)]; }

  int64_t cols;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

QuantisedRows quantised(HostTensor& x) {
  QuantisedRows rows(x.rows, x.cols);
  quantise_rows(test_queue(), rows.codes.data(), rows.scales.data(), x.view());
  synchronize();
  return rows;
}

TEST(QuantiseRows, the_largest_magnitude_of_a_row_becomes_448_and_the_others_go_to_the_nearest_code) {
  for (const int64_t cols : {32, 576, 2048, 4128}) {
    for (const unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      std::mt19937 random(9);
      HostTensor x = HostTensor::random(DType::bf16, 5, cols, random, 3, cols + 8);
      x.set(1, cols - 1, -4000.0f);  // what the row's last vector holds counts
      x.set(2, 0, 1e30f);
      const QuantisedRows rows = quantised(x);
      for (int64_t i = 0; i < 5; ++i) {
        float largest = 0;
        for (int64_t j = 0; j < cols; ++j) largest = std::max(largest, std::abs(x.get(i, j)));
        ASSERT_EQ(rows.scale(i), largest / 448.0f);
        for (int64_t j = 0; j < cols; ++j) {
          ASSERT_EQ(rows.value(i, j), e4m3_to_float(float_to_e4m3(x.get(i, j) * (448.0f / largest)))) << i << ", " << j;
          if (std::abs(x.get(i, j)) == largest) {
            ASSERT_EQ(std::abs(rows.value(i, j)), 448.0f);
          }
        }
      }
    }
  }
}

TEST(QuantiseRows, zeros_and_tiny_values_have_a_scale_that_is_a_number) {
  HostTensor x(DType::bf16, 2, 64);
  for (int64_t j = 0; j < 64; ++j) x.set(0, j, 0.0f), x.set(1, j, j % 2 ? 1e-38f : -1e-38f);
  const QuantisedRows rows = quantised(x);
  for (int64_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(std::isfinite(rows.scale(i)) && rows.scale(i) > 0);
    for (int64_t j = 0; j < 64; ++j) ASSERT_NEAR(rows.scale(i) * rows.value(i, j), x.get(i, j), 1e-30);
  }
}

TEST(QuantiseRows, a_row_that_is_no_number_keeps_none) {
  for (const float wrong : {NAN, -NAN, INFINITY, -INFINITY}) {
    HostTensor x(DType::bf16, 3, 64);
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j < 64; ++j) x.set(i, j, i == 1 && j == 20 ? wrong : 1.0f);
    }
    const QuantisedRows rows = quantised(x);
    EXPECT_TRUE(std::isnan(rows.value(1, 20)));
    for (int64_t i : {0, 2}) EXPECT_EQ(rows.value(i, 20), 448.0f);
  }
}

/// A weight in e4m3 with a scale for each row.
struct F8Example {
  F8Example(int64_t num_tokens, int64_t rows, int64_t cols, DType out_type, unsigned seed = 1)
      : random(seed),
        weight(MatrixFormat::f8, rows, cols, random),
        x(HostTensor::random(DType::bf16, num_tokens, cols, random, 1, cols + 8)),
        out(out_type, num_tokens, rows, rows + 16) {}

  GemmOperands operands() { return {out.view(), x.view(), weight.matrix()}; }

  /// Relative errors against sums of doubles, of the quantised x and of x itself.
  std::pair<double, double> errors(const float* bias = nullptr) {
    const QuantisedRows rows = quantised(x);
    std::vector<double> of_quantised, exact;
    std::vector<float> got;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t r = 0; r < weight.matrix().rows; ++r) {
        double sum = 0, exact_sum = 0;
        for (int64_t c = 0; c < x.cols; ++c) {
          sum += double{rows.value(t, c)} * weight.value(r, c);
          exact_sum += double{x.get(t, c)} * weight.value(r, c);
        }
        const double added = bias ? bias[r] : 0;
        of_quantised.push_back(sum * rows.scale(t) * weight.row_scale(r) + added);
        exact.push_back(exact_sum * weight.row_scale(r) + added);
        got.push_back(out.get(t, r));
      }
    }
    return {relative_error(of_quantised, got), relative_error(exact, got)};
  }

  std::mt19937 random;
  HostMatrix weight;
  HostTensor x, out;
};

class GemmF8Test : public GemmTest {
 protected:
  void SetUp() override {
    GemmTest::SetUp();
    emu::cublaslt().e4m3_saves = 0;
  }

  const GemmShape f8_{16, 64, 64, DType::bf16, 40, MatrixFormat::f8};
};

TEST_F(GemmF8Test, products_are_those_of_quantised_rows_and_near_those_of_the_rows) {
  for (const DType out : {DType::bf16, DType::f32}) {
    for (const auto& [rows, cols] : {std::pair{16, 64}, {48, 32}, {16, 288}}) {
      Gemm gemm(load_cublaslt({}));
      gemm.prepare(queue(false), {{{rows, cols, matrix_stride(cols), out, 20, MatrixFormat::f8}}}, {});
      for (const int64_t num_tokens : {1, 2, 9, 20, 33}) {
        F8Example example(num_tokens, rows, cols, out);
        std::vector<float> bias(static_cast<size_t>(rows), 0.25f);
        const float* added = num_tokens % 2 ? bias.data() : nullptr;
        ASSERT_TRUE(gemm.takes(example.operands()));
        std::vector<std::byte> workspace(Gemm::workspace_bytes(MatrixFormat::f8, num_tokens, cols) + 1, std::byte{0x5a});
        gemm.run(queue(false), example.operands(), added, workspace.data());
        synchronize();
        EXPECT_EQ(workspace.back(), std::byte{0x5a}) << "as much as is planned";
        const auto [of_quantised, exact] = example.errors(added);
        EXPECT_LT(of_quantised, out == DType::f32 ? 1e-6 : 4e-3) << num_tokens << " tokens, weight " << rows << " x " << cols;
        EXPECT_LT(exact, 0.08);  // a code is off by up to a sixteenth
      }
    }
  }
}

TEST_F(GemmF8Test, rows_that_are_no_vectors_of_16_bytes_are_not_taken) {
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(false), {{f8_, {24, 64, 64, DType::bf16, 8, MatrixFormat::f8}}}, {});
  F8Example right(4, 16, 64, DType::bf16), rows(4, 24, 64, DType::bf16), blocks(4, 16, 64, DType::bf16);
  EXPECT_TRUE(gemm.takes(right.operands()));
  EXPECT_FALSE(gemm.takes(rows.operands()));
  GemmOperands other = blocks.operands();
  other.weight.format = MatrixFormat::f8_blocks;
  EXPECT_FALSE(gemm.takes(other)) << "the library takes no scale for 32 values";
}

TEST_F(GemmF8Test, the_fastest_way_of_each_bucket_is_chosen_our_own_kernel_among_them) {
  emu::cublaslt().algorithms = {{Order::ascending, 1, 0.5}, {Order::by_num_tokens, 9, 0.1}, {Order::split, 3, 0.3}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, f8_, false), (std::vector<int>{0, 0, 2, 1, 1}));
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(choice(gemm, f8_, false, own_kernel(6)), (std::vector<int>{0, 0, -1, -1, -1}));
}

/// What the engine's tests rely on.
TEST_F(GemmF8Test, the_emulated_library_is_the_faster_one_for_e4m3_alone) {
  emu::cublaslt() = emu::CublasLt();
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, f8_, false, own_kernel(0)), (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(choice(gemm, f8_, true, own_kernel(0)), (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(choice(gemm, small_, false, own_kernel(0)), (std::vector<int>{-1, -1, -1, -1, -1}));
}

TEST_F(GemmF8Test, deterministic_plans_mix_neither_orders_nor_kernels) {
  emu::cublaslt().algorithms = {{Order::by_num_tokens, 1}, {Order::by_row, 2}, {Order::descending, 3, 0.1}, {Order::split, 9}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, f8_, true, own_kernel(9)), (std::vector<int>{2, 2, 2, 2, 0})) << "the first descends for many tokens";
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(choice(gemm, f8_, true, own_kernel(2)), (std::vector<int>{-1, -1, -1, -1, -1}));
}

TEST_F(GemmF8Test, bits_of_a_row_do_not_depend_on_the_number_of_tokens_in_deterministic_mode) {
  emu::cublaslt().algorithms = {{Order::by_num_tokens, 1}, {Order::descending, 3, 0.1}};
  Gemm gemm(load_cublaslt({}));
  choice(gemm, f8_, true);
  expect_rows_do_not_depend_on_the_number_of_tokens<F8Example>(gemm, DType::bf16, 3);
}

TEST_F(GemmF8Test, where_the_library_has_no_way_our_own_kernel_is_used) {
  const std::pair<const char*, bool emu::CublasLt::*> kWays[] = {{"an old version", &emu::CublasLt::knows_scales},
                                                                 {"another device", &emu::CublasLt::proposes_e4m3},
                                                                 {"told late", &emu::CublasLt::runs_e4m3}};
  for (const auto& [why, can] : kWays) {
    for (const bool deterministic : {false, true}) {
      emu::cublaslt() = emu::CublasLt();
      emu::cublaslt().e4m3_saves = 0;
      emu::cublaslt().*can = false;
      std::filesystem::remove_all(folder_);
      Gemm gemm(load_cublaslt({}));
      EXPECT_EQ(choice(gemm, f8_, deterministic, own_kernel(50)), (std::vector<int>{-1, -1, -1, -1, -1})) << why;
      std::filesystem::remove_all(folder_);
      EXPECT_EQ(choice(gemm, f8_, deterministic), (std::vector<int>{})) << why;
      EXPECT_EQ(choice(gemm, small_, deterministic), (std::vector<int>{0, 0, 0, 0, 0})) << "bf16 is as ever: " << why;
    }
  }
}

TEST_F(GemmF8Test, a_plan_that_the_library_no_longer_follows_is_made_anew) {
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, f8_, false, own_kernel(50)), (std::vector<int>{0, 0, 0, 0, 0}));
  emu::cublaslt().num_proposals = 0;
  EXPECT_EQ(choice(gemm, f8_, false, own_kernel(50)), (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(emu::cublaslt().num_proposals, 0) << "kept";
  emu::cublaslt().runs_e4m3 = false;
  EXPECT_EQ(choice(gemm, f8_, false, own_kernel(50)), (std::vector<int>{-1, -1, -1, -1, -1}));
}

TEST_F(GemmF8Test, weights_of_one_size_in_two_formats_have_a_plan_each) {
  emu::cublaslt().algorithms = {{Order::ascending, 1}};
  emu::cublaslt().runs_e4m3 = false;
  Gemm gemm(load_cublaslt({}));
  const std::vector<GemmShape> shapes{f8_, small_};
  gemm.prepare(queue(false), shapes, setup(own_kernel(5)));
  F8Example f8(3, 16, 64, DType::bf16);
  Example plain(3, 16, 64, DType::bf16);
  EXPECT_FALSE(gemm.takes(f8.operands()));
  EXPECT_TRUE(gemm.takes(plain.operands()));
}

TEST_F(GemmF8Test, a_recorded_product_is_replayed_with_new_inputs) {
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(true), {{f8_}}, setup());
  Queue recorded = queue(true);
  check(cudaStreamCreateWithFlags(&recorded.stream, cudaStreamNonBlocking), "stream");
  F8Example example(5, 16, 64, DType::bf16);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(recorded.stream, cudaStreamCaptureModeThreadLocal), "begin");
  gemm.run(recorded, example.operands(), nullptr, workspace_.data());
  check(cudaStreamEndCapture(recorded.stream, &graph), "end");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  for (unsigned seed = 5; seed < 8; ++seed) {
    const F8Example other(5, 16, 64, DType::bf16, seed);
    std::ranges::copy(other.x.bytes, example.x.bytes.begin());
    check(cudaGraphLaunch(executable, recorded.stream), "launch");
    check(cudaStreamSynchronize(recorded.stream), "wait");
    EXPECT_LT(example.errors().first, 4e-3);
  }
  check(cudaGraphExecDestroy(executable), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
  check(cudaStreamDestroy(recorded.stream), "destroy");
}

TEST_F(GemmF8Test, probes_of_e4m3_are_numbers_that_cancel) {
  std::vector<uint8_t> codes(8 * 192, 0x7f);
  fill_probe(test_queue(), {codes.data(), DType::f8_e4m3, {8, 150}, 192}, 2, true);
  synchronize();
  double smallest = 1e9, largest = 0;
  for (size_t row = 0; row < 8; ++row) {
    for (size_t col = 0; col < 192; ++col) {
      const float value = e4m3_to_float(codes[row * 192 + col]);
      ASSERT_EQ(value, col >= 150 ? 0.0f : -e4m3_to_float(codes[row * 192 + (col + 75) % 150]));
      if (value != 0) smallest = std::min(smallest, double{std::abs(value)});
      largest = std::max(largest, double{std::abs(value)});
    }
  }
  EXPECT_GT(largest / smallest, 1e4) << "sums of equal sizes would be exact in any order";
}

TEST_F(GemmF8Test, preparing_gives_back_all_memory) {
  const size_t before = emu::allocated_bytes();
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(true), {{f8_, small_}}, setup(own_kernel(2)));
  EXPECT_EQ(emu::allocated_bytes(), before);
}

}  // namespace
}  // namespace pagoda::cuda

// What tests of products by (an emulated) cuBLASLt share: a fixture with a cache of plans, examples, an own kernel that only
// takes time.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "cuda/gemm.h"
#include "cuda/gemm_cache.h"
#include "emulated_cublaslt.h"
#include "emulation_support.h"

namespace pagoda::cuda {
using Order = emu::LtAlgorithm::Order;

/// Our own kernel's part: a sum in ascending order that takes `milliseconds`.
inline OwnKernel own_kernel(double milliseconds, int* num_calls = nullptr) {
  return [=](const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight) {
    check(emu::enqueue(queue.stream,
                       [=] {
                         if (num_calls) ++*num_calls;
                         EXPECT_EQ(x.cols(), weight.cols);
                         EXPECT_EQ(out.cols(), weight.rows);
                         emu::spend_time(milliseconds);
                       }),
          "own kernel");
  };
}

/// A weight in bf16, an input and an output of which only the inner part is looked at.
struct Example {
  Example(int64_t num_tokens, int64_t rows, int64_t cols, DType out_type, unsigned seed = 1)
      : random(seed),
        weight(HostTensor::random(DType::bf16, rows, cols, random, 1, matrix_stride(cols))),
        x(HostTensor::random(DType::bf16, num_tokens, cols, random, 1, cols + 8)),
        out(out_type, num_tokens, rows, rows + 16) {}

  GemmOperands operands() {
    return {out.view(),
            x.view(),
            {.format = MatrixFormat::bf16,
             .rows = weight.rows,
             .cols = weight.cols,
             .stride = weight.row_stride,
             .values = weight.bytes.data(),
             .scales = nullptr}};
  }

  /// Relative error against sums of doubles.
  double error(const float* bias = nullptr) const {
    std::vector<double> expected;
    std::vector<float> got;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t r = 0; r < weight.rows; ++r) {
        double sum = bias ? bias[r] : 0;
        for (int64_t c = 0; c < x.cols; ++c) sum += static_cast<double>(x.get(t, c)) * weight.get(r, c);
        expected.push_back(sum);
        got.push_back(out.get(t, r));
      }
    }
    return relative_error(expected, got);
  }

  std::mt19937 random;
  HostTensor weight, x, out;
};

class GemmTest : public testing::Test {
 protected:
  void SetUp() override {
    emu::cublaslt() = emu::CublasLt();
    emu::device().l2_bytes = 16 * 1024;
    folder_ = testing::TempDir() + "gemm_cache_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static Queue queue(bool deterministic) {
    Queue queue = test_queue();
    queue.deterministic = deterministic;
    return queue;
  }

  GemmSetup setup(OwnKernel own = {}) const { return {std::move(own), folder_, "Emulated GPU (1st)", 13000}; }

  /// Algorithms' numbers in the library, -1 for our own kernel, by bucket.
  static std::vector<int> chosen(const GemmPlan& plan) {
    std::vector<int> numbers;
    for (const GemmBucket& bucket : plan.buckets) {
      numbers.push_back(bucket.algorithm ? static_cast<int>(bucket.algorithm->data[0]) : -1);
    }
    return numbers;
  }

  /// Prepares one shape and says what was chosen.
  std::vector<int> choice(Gemm& gemm, const GemmShape& shape, bool deterministic, OwnKernel own = {}) {
    gemm.prepare(queue(deterministic), {{shape}}, setup(std::move(own)));
    const GemmPlan* plan =
        gemm.plan({Tensor::dense(nullptr, shape.out, {1, shape.rows}),
                   Tensor::dense(nullptr, DType::bf16, {1, shape.cols}),
                   {.format = shape.format, .rows = shape.rows, .cols = shape.cols, .stride = shape.stride}});
    return plan ? chosen(*plan) : std::vector<int>{-9};
  }

  /// Rows of a prepared product of [40, 64] and [16, 64] have the same bits for every `stride`th number of tokens up to 40.
  template <class Example>
  void expect_rows_do_not_depend_on_the_number_of_tokens(Gemm& gemm, DType out, int64_t stride = 1) {
    Example all(40, 16, 64, out);
    gemm.run(queue(true), all.operands(), nullptr, workspace_.data());
    synchronize();
    for (int64_t num_tokens = 1; num_tokens <= 40; num_tokens += stride) {
      Example few(40, 16, 64, out);
      GemmOperands operands = few.operands();
      const int64_t first = (40 - num_tokens) / 2;
      operands.x.data = operands.x.template row<uint16_t>(first);
      operands.x.shape = {num_tokens, 64};
      operands.out.shape = {num_tokens, 16};
      gemm.run(queue(true), operands, nullptr, workspace_.data());
      synchronize();
      for (int64_t t = 0; t < num_tokens; ++t) {
        for (int64_t r = 0; r < 16; ++r) ASSERT_EQ(few.out.get(t, r), all.out.get(first + t, r)) << num_tokens << " tokens";
      }
    }
  }

  std::string read_cache() const {
    std::ostringstream text;
    text << std::ifstream(cache_path()).rdbuf();
    return text.str();
  }
  void write_cache(const std::string& text) const {
    std::filesystem::create_directories(folder_);
    std::ofstream(cache_path()) << text;
  }
  std::string cache_path() const { return GemmCache(folder_, {"Emulated GPU (1st)", 13000, emu::cublaslt().version}).path(); }

  std::string folder_;
  std::vector<std::byte> workspace_ = std::vector<std::byte>(Gemm::workspace_bytes(MatrixFormat::f8, 64, 512));
  const GemmShape small_{16, 64, 64, DType::bf16, 40};
};

}  // namespace pagoda::cuda

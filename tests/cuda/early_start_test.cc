// Kernels that begin before the kernels in front of them have ended: what they read is what those wrote, under every schedule.
#include <gtest/gtest.h>

#include <functional>

#include "cuda/gpu.h"
#include "cuda/kernels.h"
#include "matrix_support.h"

namespace pagoda::cuda {
namespace {

constexpr int64_t kTokens = 8;

__global__ void write_kernel(std::byte* to, const std::byte* from, size_t bytes) {
  gpu::wait_for_grid();
  for (size_t i = threadIdx.x; i < bytes; i += blockDim.x) to[i] = from[i];
}

using Operation = std::function<void(const Tensor& out, const Tensor& x)>;

/// `operation` gives out[kTokens, out_cols] from x[kTokens, cols]: the same where x is there and where the kernel before it
/// writes x.
void expect_waits(int64_t cols, int64_t out_cols, const Operation& operation) {
  std::mt19937 random(3);
  HostTensor x = HostTensor::random(DType::bf16, kTokens, cols, random), expected(DType::bf16, kTokens, out_cols);
  operation(expected.view(), x.view());
  synchronize();
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    HostTensor written(DType::bf16, kTokens, cols), out(DType::bf16, kTokens, out_cols);
    launch(test_queue(), {1, 128}, "write", write_kernel, written.bytes.data(), x.bytes.data(), x.bytes.size());
    operation(out.view(), written.view());
    synchronize();
    EXPECT_TRUE(out == expected) << "schedule " << seed;
  }
}

TEST(EarlyStart, norms_read_what_was_written_before_them) {
  for (const int64_t cols : {256, 1032, 9000}) {
    const std::vector<float> weight(static_cast<size_t>(cols), 0.5f);
    expect_waits(cols, cols, [&](const Tensor& out, const Tensor& x) {
      norm(test_queue(), out, x, {NormKind::rms, weight.data(), nullptr, 1e-5f});
    });
  }
}

TEST(EarlyStart, products_read_what_was_written_before_them) {
  std::mt19937 random(4);
  for (const MatrixFormat format : kMatrixFormats) {
    const HostMatrix weight(format, 40, 600, random);
    expect_waits(600, 40,
                 [&](const Tensor& out, const Tensor& x) { linear(test_queue(), out, x, weight.matrix(), nullptr, nullptr); });
  }
}

TEST(EarlyStart, activations_read_what_was_written_before_them) {
  expect_waits(512, 256, [](const Tensor& out, const Tensor& x) { gated_activation(test_queue(), out, x, Activation::silu); });
}

TEST(EarlyStart, rows_are_gathered_once_their_numbers_are_written) {
  const std::vector<int32_t> rows = {0, 7, 1, 6, 2, 5, 3, 4};
  expect_waits(64, 64, [&](const Tensor& out, const Tensor& x) {
    std::vector<int32_t> written(rows.size(), 0);
    launch(test_queue(), {1, 32}, "write", write_kernel, reinterpret_cast<std::byte*>(written.data()),
           reinterpret_cast<const std::byte*>(rows.data()), rows.size() * sizeof(int32_t));
    gather_rows(test_queue(), out, x, written.data());
    synchronize();
  });
}

}  // namespace
}  // namespace pagoda::cuda

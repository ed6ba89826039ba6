// What the tests on a device share: why they are skipped, machines (a backend with the arrays of a test in its memory) that
// carry out the same operation, and the comparison of what came out. They know backend/backend.h only, so that they run
// unchanged on a GPU and under the emulation.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace pagoda::device_test {

/// Under the emulation only the small cases run: the large ones would take minutes.
inline bool is_emulated() { return cuda_build() == CudaBuild::emulated; }

/// Where cuBLASLt may lie besides the loader's own places: folders in PAGODA_CUDA_LIBRARIES, separated by colons.
inline std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  const char* list = std::getenv("PAGODA_CUDA_LIBRARIES");
  std::istringstream words(list ? list : "");
  for (std::string folder; std::getline(words, folder, ':');) folders.push_back(folder);
  return folders;
}

inline std::unique_ptr<Backend> make_gpu(bool deterministic = true) {
  return make_cuda_backend(
      {.device_index = 0, .deterministic = deterministic, .library_folders = library_folders(), .cache_folder = {}});
}

/// Normally distributed, rounded to bf16: a GPU's activations hold them as they are. Many numbers repeat, a prime apart.
inline std::vector<float> random_values(int64_t n, unsigned seed, float scale = 1) {
  constexpr int64_t kDistinct = 1000003;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    values[at] = i < kDistinct ? bf16_to_float(float_to_bf16(normal(random))) : values[at - kDistinct];
  }
  return values;
}

/// A backend and the arrays that a test has put into its memory. Memory is full of NaN (all bits set) before it is written.
class Machine {
 public:
  explicit Machine(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  Backend* operator->() { return backend_.get(); }
  DType act() const { return backend_->traits().activation_dtype; }

  void* memory(size_t bytes) {
    buffers_.push_back(backend_->allocate(bytes));
    const std::vector<std::byte> ones(bytes, std::byte{0xff});
    backend_->upload(buffers_.back().get(), ones.data(), bytes);
    return buffers_.back().get();
  }
  template <class T>
  T* array(const std::vector<T>& values) {
    T* data = static_cast<T*>(memory(values.size() * sizeof(T)));
    backend_->upload(data, values.data(), values.size() * sizeof(T));
    return data;
  }
  template <class T>
  std::vector<T> read(const T* data, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    backend_->download(values.data(), data, values.size() * sizeof(T));
    return values;
  }

  /// [rows, cols] of NaN, rows `stride` apart (0: cols).
  Tensor empty(DType dtype, int64_t rows, int64_t cols, int64_t stride = 0) {
    stride = stride ? stride : cols;
    return {memory(static_cast<size_t>(rows * stride) * dtype_bytes(dtype)), dtype, {rows, cols}, stride};
  }
  Tensor activations(const std::vector<float>& values, int64_t cols, int64_t stride = 0) {
    const Tensor tensor = empty(act(), std::ssize(values) / cols, cols, stride);
    write(tensor, values);
    return tensor;
  }
  Tensor floats(const std::vector<float>& values, int64_t cols, int64_t stride = 0) {
    const Tensor tensor = empty(DType::f32, std::ssize(values) / cols, cols, stride);
    write(tensor, values);
    return tensor;
  }
  /// Puts values, row by row, into a tensor of f32 or bf16; what lies between the rows stays.
  void write(const Tensor& tensor, const std::vector<float>& values) {
    std::vector<std::byte> bytes = raw(tensor);
    each_element(tensor, [&](size_t i, size_t at) {
      const uint16_t half = float_to_bf16(values[i]);
      std::memcpy(&bytes[at], tensor.dtype == DType::f32 ? static_cast<const void*>(&values[i]) : &half,
                  dtype_bytes(tensor.dtype));
    });
    if (!bytes.empty()) backend_->upload(tensor.data, bytes.data(), bytes.size());
  }
  std::vector<float> read(const Tensor& tensor) {
    const std::vector<std::byte> bytes = raw(tensor);
    std::vector<float> values(static_cast<size_t>(tensor.shape.numel()));
    each_element(tensor, [&](size_t i, size_t at) {
      uint16_t half = 0;
      std::memcpy(tensor.dtype == DType::f32 ? static_cast<void*>(&values[i]) : &half, &bytes[at], dtype_bytes(tensor.dtype));
      if (tensor.dtype != DType::f32) values[i] = bf16_to_float(half);
    });
    return values;
  }

  /// Gives the arrays back.
  void clear() { buffers_.clear(); }

 private:
  std::vector<std::byte> raw(const Tensor& tensor) {
    if (tensor.rows() == 0) return {};
    const auto elements = static_cast<size_t>((tensor.rows() - 1) * tensor.row_stride + tensor.cols());
    std::vector<std::byte> bytes(elements * dtype_bytes(tensor.dtype));
    backend_->download(bytes.data(), tensor.data, bytes.size());
    return bytes;
  }
  static void each_element(const Tensor& tensor, const auto& body) {
    for (int64_t row = 0; row < tensor.rows(); ++row) {
      for (int64_t col = 0; col < tensor.cols(); ++col) {
        body(static_cast<size_t>(row * tensor.cols() + col),
             static_cast<size_t>(row * tensor.row_stride + col) * dtype_bytes(tensor.dtype));
      }
    }
  }

  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> buffers_;
};

/// How far a GPU's values may lie from the CPU's. One rounding to bf16 moves a value by up to 2^-8 of itself: 0.004.
struct Tolerance {
  double rms = 0;    ///< root of the summed squared differences over that of the expected values; for enough values
  double worst = 0;  ///< difference of one value over the sum of its size and the root mean square of all
};

constexpr Tolerance kOneRounding{0.0022, 0.0045};

inline void expect_close(const std::vector<float>& expected, const std::vector<float>& got, Tolerance tolerance) {
  ASSERT_EQ(expected.size(), got.size());
  double differences = 0, squares = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{got[i]} - double{expected[i]};
    ASSERT_TRUE(std::isfinite(difference)) << "value " << i << ": expected " << expected[i] << ", got " << got[i];
    differences += difference * difference;
    squares += double{expected[i]} * double{expected[i]};
  }
  const double size = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, expected.size())));
  constexpr size_t kEnough = 32;
  if (expected.size() >= kEnough) {
    EXPECT_LE(std::sqrt(differences), tolerance.rms * std::sqrt(squares)) << "over all " << expected.size() << " values";
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(double{got[i]} - double{expected[i]});
    ASSERT_LE(difference, tolerance.worst * (std::abs(double{expected[i]}) + size))
        << "value " << i << ": expected " << expected[i] << ", got " << got[i];
  }
}

/// Bitwise equality, which also tells -0 from 0.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// A test with a GPU; without one it is skipped.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda_unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    gpu_ = std::make_unique<Machine>(make_gpu(deterministic()));
    cpu_ = std::make_unique<Machine>(
        make_cpu_backend({.num_threads = is_emulated() ? 1 : 0, .isa = "auto", .activation_dtype = "int16"}));
  }

  /// Of the GPU's backend: without it some operations have other, faster kernels.
  virtual bool deterministic() const { return true; }

  Machine& gpu() { return *gpu_; }
  Machine& cpu() { return *cpu_; }

  /// Carries out `operation` on both machines; what it returns must be close.
  void expect_same(Tolerance tolerance, const std::function<std::vector<float>(Machine&)>& operation) {
    const std::vector<float> expected = operation(cpu()), got = operation(gpu());
    expect_close(expected, got, tolerance);
    cpu().clear();
    gpu().clear();
  }

 private:
  std::unique_ptr<Machine> gpu_, cpu_;
};

}  // namespace pagoda::device_test

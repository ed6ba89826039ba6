// What the tests of the kernels share: schedules, a queue on the emulated device, bf16 arrays with a poisoned surrounding.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// Ascending, descending, three shuffles of threads, three of warps.
inline constexpr unsigned kSchedules[] = {0, 1, 2, 3, 4, 5, 6, 7};

/// Sets the schedule of emulated threads and blocks until the end of its life.
class ScheduleScope {
 public:
  explicit ScheduleScope(unsigned seed) : before_(emu::schedule()) { emu::set_schedule(seed); }
  ~ScheduleScope() { emu::set_schedule(before_); }
  ScheduleScope(const ScheduleScope&) = delete;
  ScheduleScope& operator=(const ScheduleScope&) = delete;

 private:
  unsigned before_;
};

/// The default stream of a device with `num_multiprocessors` and `compute_capability`.
inline Queue test_queue(int num_multiprocessors = 4, int compute_capability = 90) {
  Queue queue;
  queue.num_multiprocessors = num_multiprocessors;
  queue.compute_capability = compute_capability;
  queue.starts_early = compute_capability >= 90;
  queue.shared_bytes = compute_capability >= 90 ? 227 * 1024 : 163 * 1024;
  return queue;
}

/// Runs everything in the default stream; a fault of a kernel fails the test.
inline void synchronize() {
  const cudaError_t error = cudaStreamSynchronize(nullptr);
  ASSERT_EQ(error, cudaSuccess) << emu::last_fault();
}

/// Values of a tensor as floats, rounded to its type: what the device sees is what `values` holds.
struct HostTensor {
  HostTensor(DType dtype, int64_t rows, int64_t cols, int64_t row_stride = 0)
      : dtype(dtype),
        rows(rows),
        cols(cols),
        row_stride(row_stride ? row_stride : cols),
        bytes(static_cast<size_t>(rows * this->row_stride) * dtype_bytes(dtype), std::byte{0xff}) {}

  /// Normally distributed values.
  static HostTensor random(DType dtype, int64_t rows, int64_t cols, std::mt19937& random, float scale = 1, int64_t stride = 0) {
    HostTensor tensor(dtype, rows, cols, stride);
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) tensor.set(i, j, normal(random));
    }
    return tensor;
  }

  void set(int64_t row, int64_t col, float value) {
    std::byte* at = bytes.data() + static_cast<size_t>(row * row_stride + col) * dtype_bytes(dtype);
    const uint16_t half = dtype == DType::f16 ? float_to_f16(value) : float_to_bf16(value);
    std::memcpy(at, dtype == DType::f32 ? static_cast<const void*>(&value) : &half, dtype_bytes(dtype));
  }
  float get(int64_t row, int64_t col) const {
    const std::byte* at = bytes.data() + static_cast<size_t>(row * row_stride + col) * dtype_bytes(dtype);
    if (dtype == DType::f32) {
      float value;
      std::memcpy(&value, at, 4);
      return value;
    }
    uint16_t half;
    std::memcpy(&half, at, 2);
    return dtype == DType::f16 ? f16_to_float(half) : bf16_to_float(half);
  }

  Tensor view() { return {bytes.data(), dtype, {rows, cols}, row_stride}; }
  bool operator==(const HostTensor& other) const { return bytes == other.bytes; }

  DType dtype;
  int64_t rows, cols, row_stride;
  std::vector<std::byte> bytes;
};

/// Root of the summed squared differences over that of the expected values.
inline double relative_error(std::span<const double> expected, std::span<const float> got) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (expected[i] - got[i]) * (expected[i] - got[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / std::max(size, 1e-30));
}

}  // namespace pagoda::cuda

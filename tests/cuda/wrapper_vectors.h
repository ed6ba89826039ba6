// Conformance of the wrappers in cuda/gpu.h: for each instruction a small kernel that runs it on fixed inputs, and what PTX
// says must come out, computed here by scalars. Runs on the emulation (wrappers_test.cc) and, compiled by nvcc, on a GPU, so
// that both are held to the same vectors: only calls of the CUDA runtime, no access to device memory from the host.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/check.h"
#include "cuda/gpu.h"
#include "cuda/queue.h"

namespace pagoda::cuda::wrappers {

/// One wrapper, or several that mean something only together.
struct Check {
  const char* name;
  std::string (*run)();  ///< what differs; empty if nothing does
};

/// The default stream of the current device.
inline Queue device_queue() {
  const auto attribute = [](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, 0), "asking for an attribute");
    return value;
  };
  Queue queue;
  queue.compute_capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  queue.shared_bytes = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  return queue;
}

/// An array in device memory.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, size_ * sizeof(T)), "allocating");
    data_ = static_cast<T*>(memory);
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "copying to the device");
  }
  explicit DeviceArray(size_t size) : DeviceArray(std::vector<T>(size)) {}
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return data_; }
  /// After all work of the default stream.
  std::vector<T> read() const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "copying from the device");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

/// "" if all elements are equal by `same`, or where the first difference is.
template <class T, class Same>
std::string difference(const std::vector<T>& expected, const std::vector<T>& got, Same same) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!same(expected[i], got[i])) return str("element ", i, ": expected ", +expected[i], ", got ", +got[i]);
  }
  return {};
}
template <class T>
std::string difference(const std::vector<T>& expected, const std::vector<T>& got) {
  return difference(expected, got, [](T a, T b) { return a == b; });
}

/// Whole numbers from -8 to 8, of which sums of thousands of products are exact in any order.
inline std::vector<float> whole_numbers(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 17) - 8);
  return values;
}

/// A float format of up to 16 bits: values, rounding to nearest even, by doubles.
struct SmallFloat {
  int exponent_bits, mantissa_bits;
  bool has_infinity = true;  ///< false: the highest exponent holds numbers too, and NaN only with all mantissa bits

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  double value(unsigned bits) const {
    const unsigned mantissa = bits & ((1u << mantissa_bits) - 1), top = (1u << exponent_bits) - 1;
    const unsigned exponent = bits >> mantissa_bits & top;
    const double sign = bits >> (mantissa_bits + exponent_bits) & 1 ? -1 : 1;
    if (exponent == top && (has_infinity || mantissa == (1u << mantissa_bits) - 1)) {
      if (has_infinity && mantissa == 0) return sign * std::numeric_limits<double>::infinity();
      return std::numeric_limits<double>::quiet_NaN();
    }
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias() - mantissa_bits);
    return sign * std::ldexp(mantissa + std::ldexp(1, mantissa_bits), static_cast<int>(exponent) - bias() - mantissa_bits);
  }
  /// Not for NaN.
  unsigned round(double number) const {
    const unsigned sign = (std::signbit(number) ? 1u : 0u) << (mantissa_bits + exponent_bits);
    const double magnitude = std::fabs(number);
    const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
    if (magnitude == 0) return sign;
    if (std::isinf(magnitude)) return sign | infinity;
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int unit = std::max(exponent - 1, 1 - bias()) - mantissa_bits;
    const double steps = std::nearbyint(std::ldexp(magnitude, -unit));  // the default rounding is to nearest even
    const unsigned bits =
        static_cast<unsigned>(steps) + (static_cast<unsigned>(unit + bias() + mantissa_bits - 1) << mantissa_bits);
    return sign | std::min(bits, infinity);
  }
};
inline constexpr SmallFloat kBf16Format{8, 7}, kF16Format{5, 10}, kE4m3Format{4, 3, false};

inline std::vector<uint16_t> rounded(const std::vector<float>& values, const SmallFloat& format) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = static_cast<uint16_t>(format.round(values[i]));
  return bits;
}

// Copies

/// Two groups of copies per thread; of the first only every second one is valid. out[0] is read after the wait for the first.
static __global__ void cp_async_kernel(const uint4* in, uint4* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* chunks = reinterpret_cast<uint4*>(shared);
  const unsigned t = threadIdx.x, n = blockDim.x;
  chunks[t] = chunks[n + t] = make_uint4(~0u, ~0u, ~0u, ~0u);
  gpu::cp_async16(chunks + t, in + t, t % 2 == 0);
  gpu::cp_async_commit();
  gpu::cp_async16(chunks + n + t, in + n + t, true);
  gpu::cp_async_commit();
  gpu::cp_async_wait<1>();
  out[t] = chunks[t];
  gpu::cp_async_wait<0>();
  __syncthreads();
  out[n + t] = chunks[n + (t + 1) % n];
}

inline std::string check_cp_async() {
  constexpr unsigned kThreads = 64;
  std::vector<uint32_t> in(2 * kThreads * 4), expected(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint32_t>(i * 2654435761u);
  for (unsigned t = 0; t < kThreads; ++t) {
    for (unsigned i = 0; i < 4; ++i) {
      expected[4 * t + i] = t % 2 ? 0 : in[4 * t + i];
      expected[4 * (kThreads + t) + i] = in[4 * (kThreads + (t + 1) % kThreads) + i];
    }
  }
  const DeviceArray<uint32_t> device_in(in), out(in.size());
  launch(device_queue(), {1, kThreads, 2 * kThreads * 16}, "cp.async", cp_async_kernel,
         reinterpret_cast<const uint4*>(device_in.get()), reinterpret_cast<uint4*>(out.get()));
  return difference(expected, out.read());
}

/// Each thread copies 4 bytes that its neighbour reads.
static __global__ void cp_async4_kernel(const uint32_t* in, uint32_t* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* words = reinterpret_cast<uint32_t*>(shared);
  gpu::cp_async4(words + threadIdx.x, in + threadIdx.x);
  gpu::cp_async_commit();
  gpu::cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = words[(threadIdx.x + 1) % blockDim.x];
}

inline std::string check_cp_async4() {
  std::vector<uint32_t> in(64), expected(64);
  for (unsigned i = 0; i < 64; ++i) in[i] = expected[(i + 63) % 64] = i * 2654435761u;
  const DeviceArray<uint32_t> device_in(in), out(in.size());
  launch(device_queue(), {1, 64, 256}, "cp.async", cp_async4_kernel, device_in.get(), out.get());
  return difference(expected, out.read());
}

static __global__ void load_once_kernel(const uint4* in, uint4* out) {
  gpu::prefetch_l2(in + threadIdx.x);
  gpu::wait_for_grid();
  out[threadIdx.x] = gpu::load_once(in + threadIdx.x);
}

inline std::string check_load_once() {
  std::vector<uint32_t> in(32 * 4);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint32_t>(i * 2654435761u);
  const DeviceArray<uint32_t> device_in(in), out(in.size());
  launch(device_queue(), {1, 32}, "load", load_once_kernel, reinterpret_cast<const uint4*>(device_in.get()),
         reinterpret_cast<uint4*>(out.get()));
  return difference(in, out.read());
}

// Matrices

/// Lane l's row is the one at row (5 * l + 3) % 32 of shared memory that holds its own indices. r to out[lane][4].
template <bool kTransposed>
__global__ void ldmatrix_kernel(uint32_t* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* elements = reinterpret_cast<uint16_t*>(shared);
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) elements[i] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t r[4];
  if constexpr (kTransposed) {
    gpu::ldmatrix_x4_trans(r, elements + (5 * lane + 3) % 32 * 8);
  } else {
    gpu::ldmatrix_x4(r, elements + (5 * lane + 3) % 32 * 8);
  }
  for (unsigned i = 0; i < 4; ++i) out[4 * lane + i] = r[i];
}

template <bool kTransposed>
std::string check_ldmatrix() {
  std::vector<uint32_t> expected(128);
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      const auto element = [&](unsigned row, unsigned column) { return (5 * (8 * i + row) + 3) % 32 * 8 + column; };
      const unsigned major = lane / 4, minor = 2 * (lane % 4);
      expected[4 * lane + i] = kTransposed ? element(minor, major) | element(minor + 1, major) << 16
                                           : element(major, minor) | element(major, minor + 1) << 16;
    }
  }
  const DeviceArray<uint32_t> out(expected.size());
  launch(device_queue(), {1, 32, 512}, "ldmatrix", ldmatrix_kernel<kTransposed>, out.get());
  return difference(expected, out.read());
}

static __global__ void transpose_kernel(const uint32_t* in, uint32_t* out) {
  gpu::wait_for_grid();
  out[threadIdx.x] = gpu::transpose_8x8(in[threadIdx.x]);
}

inline std::string check_transpose() {
  std::vector<uint16_t> in(64), expected(64);
  for (unsigned i = 0; i < 64; ++i) {
    in[i] = static_cast<uint16_t>(1000 + i);
    expected[i % 8 * 8 + i / 8] = in[i];
  }
  const DeviceArray<uint16_t> device_in(in), out(64);
  launch(device_queue(), {1, 32}, "movmatrix", transpose_kernel, reinterpret_cast<const uint32_t*>(device_in.get()),
         reinterpret_cast<uint32_t*>(out.get()));
  return difference(expected, out.read());
}

/// d[16, 8] += a[16, 16] * b[16, 8], all row by row in memory.
template <bool kF16>
__global__ void mma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  gpu::wait_for_grid();
  const unsigned g = threadIdx.x / 4, q = threadIdx.x % 4 * 2;
  const auto pair = [](uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; };
  uint32_t fa[4], fb[2];
  float fd[4];
  for (unsigned i = 0; i < 4; ++i) {
    const uint16_t* at = a + (g + i % 2 * 8) * 16 + q + i / 2 * 8;
    fa[i] = pair(at[0], at[1]);
    fd[i] = d[(g + i / 2 * 8) * 8 + q + i % 2];
  }
  for (unsigned i = 0; i < 2; ++i) fb[i] = pair(b[(q + 8 * i) * 8 + g], b[(q + 8 * i + 1) * 8 + g]);
  if constexpr (kF16) {
    gpu::mma_f16(fd, fa, fb[0], fb[1]);
  } else {
    gpu::mma_bf16(fd, fa, fb[0], fb[1]);
  }
  for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + q + i % 2] = fd[i];
}

template <bool kF16>
std::string check_mma() {
  const std::vector<float> a = whole_numbers(256, 1), b = whole_numbers(128, 2), d = whole_numbers(128, 3);
  std::vector<float> expected = d;
  for (unsigned i = 0; i < 128; ++i) {
    for (unsigned k = 0; k < 16; ++k) expected[i] += a[i / 8 * 16 + k] * b[8 * k + i % 8];
  }
  const SmallFloat& format = kF16 ? kF16Format : kBf16Format;
  const DeviceArray<uint16_t> device_a(rounded(a, format)), device_b(rounded(b, format));
  const DeviceArray<float> device_d(d);
  launch(device_queue(), {1, 32}, "mma", mma_kernel<kF16>, device_a.get(), device_b.get(), device_d.get());
  return difference(expected, device_d.read());
}

// Numbers

static __global__ void exp2_kernel(const float* in, float* out) {
  gpu::wait_for_grid();
  out[threadIdx.x] = gpu::exp2_approx(in[threadIdx.x]);
}

inline std::string check_exp2() {
  std::vector<float> in(256), expected(256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = -140.0f + static_cast<float>(i) * 1.0434f;
  in[0] = -std::numeric_limits<float>::infinity(), in[1] = 0, in[2] = -0.0f, in[3] = 1, in[4] = -1, in[5] = 200, in[6] = 1e-30f;
  for (size_t i = 0; i < in.size(); ++i) expected[i] = static_cast<float>(std::exp2(static_cast<double>(in[i])));
  const DeviceArray<float> device_in(in), out(in.size());
  launch(device_queue(), {1, 256}, "exp2", exp2_kernel, device_in.get(), out.get());
  const std::string wrong = difference(expected, out.read(), [](float a, float b) {
    return a == b || std::fabs(a - b) <= a * 0x1p-21f + std::numeric_limits<float>::min();  // results below that may be 0
  });
  return wrong.empty() && out.read()[0] != 0 ? "2^-infinity is not 0" : wrong;
}

/// What is hard to round: ties, neighbours of ties, the smallest and the largest numbers of both formats; an even number of
/// them.
inline std::vector<float> hard_to_round() {
  std::vector<float> values{0.0f,
                            -0.0f,
                            1.0f,
                            65504.0f,
                            65519.0f,
                            65520.0f,
                            1e30f,
                            3.3895314e38f,
                            3.4e38f,
                            1e-45f,
                            1e-40f,
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()};
  for (int mantissa_bits : {7, 10}) {
    for (float base : {1.0f, -1.5f, 0x1p-14f, 0x1.4p-20f, 0x1p-24f, 0x1p-126f, 0x1.8p100f}) {
      for (int steps = 0; steps < 4; ++steps) {
        const float tie = base * (1 + (static_cast<float>(steps) + 0.5f) * std::ldexp(1.0f, -mantissa_bits));
        for (float value : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 2 * tie)}) values.push_back(value);
      }
    }
  }
  for (const float value : whole_numbers(1000, 4)) values.push_back(value * 0.0123456789f);
  if (values.size() % 2) values.push_back(2.0f);
  return values;
}

template <bool kF16>
__global__ void pack_kernel(const float* in, uint32_t* out, unsigned n) {
  gpu::wait_for_grid();
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
    out[i] = kF16 ? gpu::pack_f16(in[2 * i], in[2 * i + 1]) : gpu::pack_bf16(in[2 * i], in[2 * i + 1]);
  }
}

template <bool kF16>
std::string check_pack() {
  const SmallFloat& format = kF16 ? kF16Format : kBf16Format;
  std::vector<float> in = hard_to_round();
  std::vector<uint16_t> expected = rounded(in, format);
  for (size_t i = 0; i < 2; ++i) {
    in.push_back(std::numeric_limits<float>::quiet_NaN());
    expected.push_back(0x7fff);
  }
  const DeviceArray<float> device_in(in);
  const DeviceArray<uint16_t> out(in.size());
  launch(device_queue(), {1, 64}, "pack", pack_kernel<kF16>, device_in.get(), reinterpret_cast<uint32_t*>(out.get()),
         static_cast<unsigned>(in.size() / 2));
  return difference(expected, out.read(), [&](uint16_t a, uint16_t b) {
    return a == b || (std::isnan(format.value(a)) && std::isnan(format.value(b)));
  });
}

static __global__ void f16_kernel(float* out) {
  gpu::wait_for_grid();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = gpu::f16_to_float(static_cast<uint16_t>(i));
}

template <bool kToBf16>
static __global__ void e4m3_kernel(uint32_t* out) {
  gpu::wait_for_grid();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = kToBf16 ? gpu::e4m3_to_bf16((i & 0xffu) << 8 | i >> 8 << 24) : gpu::unpack_e4m3(static_cast<uint16_t>(i));
}

inline bool same_number(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

inline std::string check_f16_to_float() {
  std::vector<float> expected(65536);
  for (unsigned i = 0; i < expected.size(); ++i) expected[i] = static_cast<float>(kF16Format.value(i));
  const DeviceArray<float> out(expected.size());
  launch(device_queue(), {256, 256}, "f16", f16_kernel, out.get());
  return difference(expected, out.read(), [](float a, float b) { return same_number(a, b); });
}

template <bool kToBf16>
std::string check_e4m3() {
  std::vector<double> expected, got;
  const DeviceArray<uint32_t> out(size_t{65536});
  launch(device_queue(), {256, 256}, "e4m3", e4m3_kernel<kToBf16>, out.get());
  const std::vector<uint32_t> pairs = out.read();
  for (unsigned i = 0; i < pairs.size(); ++i) {
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned code = i >> 8 * half & 0xff;
      const bool as_number = kToBf16 && (code & 0x7f) == 0x7f;
      expected.push_back(as_number ? (code & 0x80 ? -480 : 480) : kE4m3Format.value(code));
      got.push_back((kToBf16 ? kBf16Format : kF16Format).value(pairs[i] >> 16 * half & 0xffff));
    }
  }
  return difference(expected, got, same_number);
}

static __global__ void opaque_kernel(uint32_t* out) {
  gpu::wait_for_grid();
  const unsigned i = threadIdx.x;
  out[i] = gpu::opaque(i) + static_cast<uint32_t>(gpu::opaque(static_cast<float>(i)));
}

inline std::string check_opaque() {
  std::vector<uint32_t> expected(32);
  for (unsigned i = 0; i < 32; ++i) expected[i] = 2 * i;
  const DeviceArray<uint32_t> out(expected.size());
  launch(device_queue(), {1, 32}, "opaque", opaque_kernel, out.get());
  return difference(expected, out.read());
}

// Order

/// Lets the next kernel start at once, and is long done when that one goes on.
static __global__ void first_grid_kernel(uint32_t* values) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  values[blockIdx.x * blockDim.x + threadIdx.x] += 1;
}
static __global__ void second_grid_kernel(uint32_t* values) {
  gpu::wait_for_grid();
  values[blockIdx.x * blockDim.x + threadIdx.x] *= 10;
}

inline std::string check_grid_order() {
  const DeviceArray<uint32_t> values(std::vector<uint32_t>(256 * 64, 0));
  for (int i = 0; i < 3; ++i) {
    launch(device_queue(), {64, 256}, "first", first_grid_kernel, values.get());
    launch(device_queue(), {64, 256}, "second", second_grid_kernel, values.get());
  }
  return difference(std::vector<uint32_t>(256 * 64, 1110), values.read());
}

/// Warps 0 and 1 hand numbers to warps 2 and 3, `rounds` times; 4 * 32 threads.
static __global__ void named_barrier_kernel(uint32_t* out, unsigned rounds) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* numbers = reinterpret_cast<uint32_t*>(shared);
  constexpr unsigned kFull = 1, kEmpty = 2, kReaders = 3;
  uint32_t sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    if (threadIdx.x < 64) {
      if (round) gpu::named_barrier_sync(kEmpty, 128);
      numbers[threadIdx.x] = round * 100 + threadIdx.x;
      gpu::named_barrier_arrive(kFull, 128);
    } else {
      gpu::named_barrier_sync(kFull, 128);
      sum += numbers[127 - threadIdx.x];
      gpu::named_barrier_sync(kReaders, 64);
      if (round + 1 < rounds) gpu::named_barrier_arrive(kEmpty, 128);
    }
  }
  if (threadIdx.x >= 64) out[threadIdx.x - 64] = sum;
}

inline std::string check_named_barriers() {
  constexpr unsigned kRounds = 7;
  std::vector<uint32_t> expected(64);
  for (unsigned i = 0; i < 64; ++i) expected[i] = 100 * (kRounds * (kRounds - 1) / 2) + kRounds * (63 - i);
  const DeviceArray<uint32_t> out(expected.size());
  launch(device_queue(), {1, 128, 256}, "named barriers", named_barrier_kernel, out.get(), kRounds);
  return difference(expected, out.read());
}

/// Everything in gpu.h.
inline std::vector<Check> gpu_checks() {
  return {{"cp_async16, cp_async_commit, cp_async_wait", check_cp_async},
          {"cp_async4", check_cp_async4},
          {"prefetch_l2, load_once", check_load_once},
          {"ldmatrix_x4", check_ldmatrix<false>},
          {"ldmatrix_x4_trans", check_ldmatrix<true>},
          {"transpose_8x8", check_transpose},
          {"mma_bf16", check_mma<false>},
          {"mma_f16", check_mma<true>},
          {"exp2_approx", check_exp2},
          {"pack_bf16", check_pack<false>},
          {"pack_f16", check_pack<true>},
          {"f16_to_float", check_f16_to_float},
          {"unpack_e4m3", check_e4m3<false>},
          {"e4m3_to_bf16", check_e4m3<true>},
          {"opaque", check_opaque},
          {"wait_for_grid, launch_dependents", check_grid_order},
          {"named_barrier_sync, named_barrier_arrive", check_named_barriers}};
}

}  // namespace pagoda::cuda::wrappers

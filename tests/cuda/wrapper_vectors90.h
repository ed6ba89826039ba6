// Conformance of the wrappers in cuda/gpu90.h, in the manner of wrapper_vectors.h; for devices of compute capability 9.0.
#pragma once

#include <array>

#include "cuda/gpu90.h"
#include "cuda/tensor_map.h"
#include "wrapper_vectors.h"

namespace pagoda::cuda::wrappers {

/// Where chunk `chunk` (16 bytes) of row `row` lies in rows of 128 swizzled bytes.
constexpr unsigned swizzled_offset(unsigned row, unsigned chunk) { return row * 128 + (chunk ^ row % 8) * 16; }

// Barriers

/// Warp 0 hands a number to each lane of warp 1 in every phase of a ring of two stages; out[32] sums what arrives.
static __global__ void mbarrier_kernel(uint32_t* out, unsigned rounds) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* numbers = reinterpret_cast<uint32_t*>(shared);  // [2][32]
  auto* full = reinterpret_cast<uint64_t*>(shared + 256);
  auto* empty = full + 2;
  const unsigned lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (unsigned stage = 0; stage < 2; ++stage) {
      gpu::mbarrier_init(full + stage, 32);
      gpu::mbarrier_init(empty + stage, 32);
    }
    gpu::mbarrier_fence_init();
  }
  __syncthreads();
  uint32_t sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    const unsigned stage = round % 2, parity = round / 2 % 2;
    if (threadIdx.x < 32) {
      gpu::mbarrier_wait(empty + stage, parity ^ 1);
      numbers[32 * stage + lane] = round * 1000 + lane;
      gpu::mbarrier_arrive(full + stage);
    } else {
      gpu::mbarrier_wait(full + stage, parity);
      sum += numbers[32 * stage + 31 - lane];
      gpu::mbarrier_arrive(empty + stage);
    }
  }
  if (threadIdx.x >= 32) out[lane] = sum;
}

inline std::string check_mbarrier() {
  constexpr unsigned kRounds = 11;
  std::vector<uint32_t> expected(32);
  for (unsigned i = 0; i < 32; ++i) expected[i] = 1000 * (kRounds * (kRounds - 1) / 2) + kRounds * (31 - i);
  const DeviceArray<uint32_t> out(expected.size());
  launch(device_queue(), {1, 64, 512}, "mbarrier", mbarrier_kernel, out.get(), kRounds);
  return difference(expected, out.read());
}

static __global__ void elect_kernel(uint32_t* out) {
  gpu::wait_for_grid();
  out[threadIdx.x] = gpu::elect_one();
}

inline std::string check_elect() {
  const DeviceArray<uint32_t> out(size_t{96});
  launch(device_queue(), {1, 96}, "elect", elect_kernel, out.get());
  std::vector<uint32_t> elected(3);
  const std::vector<uint32_t> got = out.read();
  for (size_t i = 0; i < got.size(); ++i) elected[i / 32] += got[i];
  return difference({1, 1, 1}, elected);
}

/// Two warpgroups of which the first gives registers to the second; both go on computing.
static __global__ void __launch_bounds__(256, 1) registers_kernel(uint32_t* out) {
  gpu::wait_for_grid();
  if (threadIdx.x < 128) {
    gpu::release_registers<24>();
    out[threadIdx.x] = threadIdx.x * 3;
  } else {
    gpu::acquire_registers<240>();
    out[threadIdx.x] = threadIdx.x * 5;
  }
}

inline std::string check_registers() {
  std::vector<uint32_t> expected(256);
  for (unsigned i = 0; i < 256; ++i) expected[i] = i * (i < 128 ? 3 : 5);
  const DeviceArray<uint32_t> out(expected.size());
  launch(device_queue(), {1, 256}, "setmaxnreg", registers_kernel, out.get());
  return difference(expected, out.read());
}

// Boxes

/// The box [rows, 64] at `at`, as it lies in shared memory, to out.
template <int kRank>
__global__ void tma_kernel(const __grid_constant__ CUtensorMap map, int x, int y, int z, unsigned rows, uint32_t* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* barrier = reinterpret_cast<uint64_t*>(shared);
  unsigned char* box = shared + 1024;
  if (threadIdx.x == 0) {
    gpu::prefetch_map(&map);
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_fence_init();
    gpu::mbarrier_expect(barrier, rows * 128);
    if constexpr (kRank == 2) {
      gpu::tma_load(box, &map, barrier, {x, y});
    } else {
      gpu::tma_load(box, &map, barrier, {x, y, z});
    }
  }
  __syncthreads();
  gpu::mbarrier_wait(barrier, 0);
  for (unsigned i = threadIdx.x; i < rows * 32; i += blockDim.x) out[i] = reinterpret_cast<uint32_t*>(box)[i];
}

/// An array [5, 9, 88] (or [9, 88]) of numbers, rows 96 apart, and the box at `at`, which may lie outside in part.
template <int kRank>
std::string check_tma(std::array<int, 3> at, std::array<uint32_t, 3> box) {
  constexpr unsigned kColumns = 88, kStride = 96, kRows = 9, kPlanes = kRank == 2 ? 1 : 5;
  std::vector<uint16_t> in(kPlanes * kRows * kStride);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  const DeviceArray<uint16_t> device_in(in);
  TensorBoxes boxes;
  boxes.base = device_in.get();
  boxes.rank = kRank;
  boxes.sizes = {kColumns, kRows, kPlanes};
  boxes.strides = {0, kStride * 2, kRows * kStride * 2};
  boxes.box = {box[0], box[1], box[2]};
  const unsigned rows = box[1] * box[2];
  std::vector<uint16_t> expected(rows * 64);
  for (unsigned row = 0; row < rows; ++row) {
    for (unsigned column = 0; column < 64; ++column) {
      const int x = at[0] + static_cast<int>(column), y = at[1] + static_cast<int>(row % box[1]);
      const int z = at[2] + static_cast<int>(row / box[1]);
      const bool inside = x >= 0 && x < int{kColumns} && y >= 0 && y < int{kRows} && z >= 0 && z < int{kPlanes};
      const auto index = static_cast<size_t>((z * int{kRows} + y) * int{kStride} + x);
      expected[swizzled_offset(row, column / 8) / 2 + column % 8] = inside ? in[index] : 0;
    }
  }
  const DeviceArray<uint16_t> out(expected.size());
  launch(device_queue(), {1, 64, 1024 + rows * 128}, "TMA", tma_kernel<kRank>, tensor_map(boxes), at[0], at[1], at[2], rows,
         reinterpret_cast<uint32_t*>(out.get()));
  return difference(expected, out.read());
}

inline std::string check_tma_2d() {
  const std::string inside = check_tma<2>({8, 1, 0}, {64, 8, 1});
  return inside.empty() ? check_tma<2>({32, -3, 0}, {64, 16, 1}) : inside;
}
inline std::string check_tma_3d() {
  const std::string inside = check_tma<3>({0, 2, 1}, {64, 3, 4});
  return inside.empty() ? check_tma<3>({-16, 7, 3}, {64, 5, 3}) : inside;
}

// Products

/// d[64, n] = a[64, 64] * b[64, n] + d where kAccumulates; kColumns columns of which are in one product.
template <gpu::Major kMajor, int kColumns, bool kRegisters, bool kAccumulates>
__global__ void __launch_bounds__(128) wgmma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  unsigned char *const a_at = shared, *const b_at = shared + 64 * 128;
  const unsigned t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4, q = t % 4 * 2;
  for (unsigned i = t; i < 64 * 64; i += 128) {
    const unsigned k = i % 64, offset = swizzled_offset(i / 64, k / 8) + k % 8 * 2;
    *reinterpret_cast<uint16_t*>(a_at + offset) = a[i];
  }
  for (unsigned i = t; i < 64 * kColumns; i += 128) {
    const unsigned k = i / kColumns, n = i % kColumns;
    const unsigned offset = kMajor == gpu::Major::k ? swizzled_offset(n, k / 8) + k % 8 * 2
                                                    : n / 64 * 64 * 128 + swizzled_offset(k, n % 64 / 8) + n % 8 * 2;
    *reinterpret_cast<uint16_t*>(b_at + offset) = b[i];
  }
  gpu::fence_proxy_async();
  __syncthreads();
  const auto element = [&](int i) { return (row + static_cast<unsigned>(i) / 2 % 2 * 8) * kColumns + i / 4 * 8 + q + i % 2; };
  float sums[kColumns / 2];
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) sums[i] = d[element(i)];
  uint32_t fragments[4][4];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const uint16_t* at = a + (row + i % 2 * 8) * 64 + i / 4 * 16 + i / 2 % 2 * 8 + q;
    fragments[i / 4][i % 4] = at[0] | static_cast<uint32_t>(at[1]) << 16;
  }
  const uint64_t a_matrix = gpu::matrix_descriptor(a_at, 16);
  const uint64_t b_matrix = gpu::matrix_descriptor(b_at, kMajor == gpu::Major::k ? 16 : 64 * 128);
  gpu::wgmma_hold(sums);
#pragma unroll
  for (auto& fragment : fragments) gpu::wgmma_hold(fragment);
  gpu::wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint64_t b_now =
        gpu::advance_descriptor(b_matrix, static_cast<unsigned>(kMajor == gpu::Major::k ? 32 * k : 2048 * k));
    if constexpr (kRegisters) {
      gpu::wgmma_bf16<kMajor>(sums, fragments[k], b_now, kAccumulates || k > 0);
    } else {
      gpu::wgmma_bf16<kMajor>(sums, gpu::advance_descriptor(a_matrix, static_cast<unsigned>(32 * k)), b_now,
                              kAccumulates || k > 0);
    }
    gpu::wgmma_commit();
  }
  gpu::wgmma_wait<1>();
  gpu::wgmma_wait<0>();
  gpu::wgmma_hold(sums);
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) d[element(i)] = sums[i];
}

template <gpu::Major kMajor, int kColumns, bool kRegisters, bool kAccumulates>
std::string check_wgmma_of() {
  const std::vector<float> a = whole_numbers(64 * 64, 5), b = whole_numbers(64 * kColumns, 6),
                           d = whole_numbers(64 * kColumns, 7);
  std::vector<float> expected(d.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    expected[i] = kAccumulates ? d[i] : 0;
    for (size_t k = 0; k < 64; ++k) expected[i] += a[i / kColumns * 64 + k] * b[k * kColumns + i % kColumns];
  }
  const DeviceArray<uint16_t> device_a(rounded(a, kBf16Format)), device_b(rounded(b, kBf16Format));
  const DeviceArray<float> device_d(d);
  // Panels of 64 columns, of which the last may be used in part.
  constexpr size_t kSharedBytes = 64 * 128 + 128 * (kMajor == gpu::Major::k ? kColumns : (kColumns + 63) / 64 * 64);
  launch(device_queue(), {1, 128, kSharedBytes}, "wgmma", wgmma_kernel<kMajor, kColumns, kRegisters, kAccumulates>,
         device_a.get(), device_b.get(), device_d.get());
  const std::string wrong = difference(expected, device_d.read());
  return wrong.empty() ? wrong
                       : str("n = ", kColumns, ", b by ", kMajor == gpu::Major::k ? "k" : "n", ", a in ",
                             kRegisters ? "registers" : "shared memory", kAccumulates ? ", accumulating: " : ": ", wrong);
}

template <gpu::Major kMajor, bool kRegisters, int... kColumns>
std::string check_wgmma() {
  std::string wrong;
  ((wrong += check_wgmma_of<kMajor, kColumns, kRegisters, false>(),
    wrong += check_wgmma_of<kMajor, kColumns, kRegisters, true>()),
   ...);
  return wrong;
}

/// Everything in gpu90.h.
inline std::vector<Check> gpu90_checks() {
  using gpu::Major;
  return {{"mbarrier_init, mbarrier_fence_init, mbarrier_arrive, mbarrier_wait", check_mbarrier},
          {"elect_one", check_elect},
          {"release_registers, acquire_registers", check_registers},
          {"prefetch_map, mbarrier_expect, tma_load of two dimensions", check_tma_2d},
          {"tma_load of three dimensions", check_tma_3d},
          {"wgmma_bf16, b by k", check_wgmma<Major::k, false, 8, 16, 64, 128, 256>},
          {"wgmma_bf16, b by n", check_wgmma<Major::n, false, 8, 16, 64, 128, 256>},
          {"wgmma_bf16, a in registers, b by k", check_wgmma<Major::k, true, 8, 16, 64, 128, 256>},
          {"wgmma_bf16, a in registers, b by n", check_wgmma<Major::n, true, 8, 16, 64, 128, 256>}};
}

}  // namespace pagoda::cuda::wrappers

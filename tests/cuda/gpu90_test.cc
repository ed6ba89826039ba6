// Hopper's instructions under the emulation: a matrix product as they are meant to be used (one warp copies, two warpgroups
// multiply) is right under every schedule; its version with one mistake is found out; what Hopper leaves undefined is a fault.
#include "cuda/gpu90.h"

#include <gtest/gtest.h>

#include "cuda/tensor_map.h"
#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

/// Runs the kernel and returns the text of its fault, empty if there was none.
template <class... Parameters, class... Arguments>
std::string fault_of(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  launch(test_queue(), shape, "kernel", kernel, arguments...);
  return cudaStreamSynchronize(nullptr) == cudaSuccess ? std::string() : emu::last_fault();
}

void expect_fault(const std::string& fault, const char* text) {
  EXPECT_NE(fault.find(text), std::string::npos) << "got: " << fault;
  EXPECT_NE(fault.find("gpu90_test.cc:"), std::string::npos) << "got: " << fault;
}

enum class Mistake {
  none,
  no_wait_for_full,      ///< products read what may not have come yet
  no_wait_for_empty,     ///< copies overwrite what may still be read
  wrong_parity,          ///< of the wait for copies
  early_release,         ///< a stage is given back before the products that read it are done
  no_wait_for_products,  ///< before sums are stored
  wrong_major,           ///< b taken for rows of columns
  wrong_advance,         ///< to the next 16 columns
  too_few_bytes,         ///< expected
  too_many_bytes,        ///< expected
};

/// c[M, 128] = a[M, K] * b[128, K]^T with 128 rows per block; K a multiple of 64.
struct Product {
  static constexpr int kRows = 128, kColumns = 128, kDepth = 64, kStages = 2;
  static constexpr int kMatrixBytes = kRows * kDepth * 2;
  static constexpr unsigned kThreads = 384;
  static constexpr size_t kSharedBytes = 2 * kStages * kMatrixBytes + 2 * kStages * 8;
};

template <Mistake kMistake>
__device__ void copy_stages(const CUtensorMap& a, const CUtensorMap& b, int steps, unsigned char* shared, uint64_t* full) {
  uint64_t* empty = full + Product::kStages;
  constexpr int kExpected =
      2 * Product::kMatrixBytes + (kMistake == Mistake::too_few_bytes) * -128 + (kMistake == Mistake::too_many_bytes) * 128;
  for (int step = 0; step < steps; ++step) {
    const int stage = step % Product::kStages, x = step * Product::kDepth;
    if (kMistake != Mistake::no_wait_for_empty) gpu::mbarrier_wait(empty + stage, ~(step / Product::kStages) & 1);
    if (!gpu::elect_one()) continue;
    unsigned char* to = shared + stage * 2 * Product::kMatrixBytes;
    gpu::mbarrier_expect(full + stage, kExpected);
    gpu::tma_load(to, &a, full + stage, {x, static_cast<int>(blockIdx.x) * Product::kRows});
    gpu::tma_load(to + Product::kMatrixBytes, &b, full + stage, {x, 0});
  }
}

template <Mistake kMistake>
__device__ void multiply_stages(float (&sums)[64], int rows, int steps, unsigned char* shared, uint64_t* full) {
  constexpr gpu::Major kMajor = kMistake == Mistake::wrong_major ? gpu::Major::n : gpu::Major::k;
  uint64_t* empty = full + Product::kStages;
  for (int step = 0; step < steps; ++step) {
    const int stage = step % Product::kStages;
    const unsigned parity = static_cast<unsigned>(step / Product::kStages + (kMistake == Mistake::wrong_parity)) & 1;
    if (kMistake != Mistake::no_wait_for_full) gpu::mbarrier_wait(full + stage, parity);
    const unsigned char* from = shared + stage * 2 * Product::kMatrixBytes;
    const uint64_t a = gpu::matrix_descriptor(from + rows * 128, 16);
    const uint64_t b = gpu::matrix_descriptor(from + Product::kMatrixBytes, 64 * 128);
    gpu::wgmma_hold(sums);
    gpu::wgmma_fence();
#pragma unroll
    for (unsigned k = 0; k < Product::kDepth / 16; ++k) {
      const unsigned bytes = (kMistake == Mistake::wrong_advance ? 16 : 32) * k;
      gpu::wgmma_bf16<kMajor>(sums, gpu::advance_descriptor(a, bytes), gpu::advance_descriptor(b, bytes), step > 0 || k > 0);
    }
    gpu::wgmma_commit();
    if (kMistake == Mistake::early_release && threadIdx.x % 32 == 0) gpu::mbarrier_arrive(empty + stage);
    if (kMistake != Mistake::no_wait_for_products || step + 1 < steps) gpu::wgmma_wait<0>();
    gpu::wgmma_hold(sums);
    if (kMistake != Mistake::early_release && threadIdx.x % 32 == 0) gpu::mbarrier_arrive(empty + stage);
  }
}

template <Mistake kMistake>
__global__ void __launch_bounds__(Product::kThreads, 1)
    product_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* c, int steps) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* full = reinterpret_cast<uint64_t*>(shared + 2 * Product::kStages * Product::kMatrixBytes);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Product::kStages; ++stage) {
      gpu::mbarrier_init(full + stage, 1);
      gpu::mbarrier_init(full + Product::kStages + stage, 8);
    }
    gpu::mbarrier_fence_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    gpu::release_registers<40>();
    if (threadIdx.x < 32) copy_stages<kMistake>(a, b, steps, shared, full);
  } else {
    gpu::acquire_registers<232>();
    const int thread = static_cast<int>(threadIdx.x) % 128, rows = (static_cast<int>(threadIdx.x) / 128 - 1) * 64;
    float sums[64];
    multiply_stages<kMistake>(sums, rows, steps, shared, full);
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      const int row = rows + thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      c[(static_cast<int>(blockIdx.x) * Product::kRows + row) * Product::kColumns + column] = sums[i];
    }
    gpu::wgmma_wait<0>();
  }
}

CUtensorMap map_of(const HostTensor& matrix) {
  TensorBoxes boxes;
  boxes.base = matrix.bytes.data();
  boxes.rank = 2;
  boxes.sizes = {static_cast<uint64_t>(matrix.cols), static_cast<uint64_t>(matrix.rows)};
  boxes.strides = {0, static_cast<uint64_t>(matrix.row_stride) * 2};
  boxes.box = {Product::kDepth, Product::kRows};
  return tensor_map(boxes);
}

/// What is wrong with a product under one schedule: a fault, or the error of the result; empty if nothing.
template <Mistake kMistake>
std::string outcome(unsigned seed) {
  const ScheduleScope scope(seed);
  constexpr int kSteps = 5, kM = 2 * Product::kRows;
  std::mt19937 random(1);
  const HostTensor a = HostTensor::random(DType::bf16, kM, kSteps * Product::kDepth, random);
  const HostTensor b = HostTensor::random(DType::bf16, Product::kColumns, kSteps * Product::kDepth, random);
  std::vector<float> c(kM * Product::kColumns);
  const std::string fault =
      fault_of({2, Product::kThreads, Product::kSharedBytes}, product_kernel<kMistake>, map_of(a), map_of(b), c.data(), kSteps);
  if (!fault.empty()) return fault;
  std::vector<double> expected(c.size());
  for (int64_t i = 0; i < kM; i += 5) {  // every fifth row
    for (int64_t j = 0; j < Product::kColumns; ++j) {
      double& sum = expected[static_cast<size_t>(i * Product::kColumns + j)];
      for (int64_t k = 0; k < a.cols; ++k) sum += double{a.get(i, k)} * b.get(j, k);
    }
  }
  for (size_t i = 0; i < c.size(); ++i) {
    if (i / Product::kColumns % 5) c[i] = 0;
  }
  const double error = relative_error(expected, c);
  return error < 1e-6 ? std::string() : "relative error " + std::to_string(error);
}

/// How many schedules show the mistake.
template <Mistake kMistake>
int num_caught() {
  int caught = 0;
  for (unsigned seed : kSchedules) caught += !outcome<kMistake>(seed).empty();
  return caught;
}

TEST(Gpu90, a_warp_specialised_product_is_right_under_every_schedule) {
  for (unsigned seed : kSchedules) EXPECT_EQ(outcome<Mistake::none>(seed), "") << "schedule " << seed;
}

TEST(Gpu90, mistakes_in_a_product_are_found) {
  EXPECT_GE(num_caught<Mistake::no_wait_for_full>(), 6);
  EXPECT_GE(num_caught<Mistake::no_wait_for_empty>(), 6);
  EXPECT_EQ(num_caught<Mistake::wrong_parity>(), 8);
  EXPECT_GE(num_caught<Mistake::early_release>(), 1);
  EXPECT_EQ(num_caught<Mistake::no_wait_for_products>(), 8);
  EXPECT_EQ(num_caught<Mistake::wrong_major>(), 8);
  EXPECT_EQ(num_caught<Mistake::wrong_advance>(), 8);
  EXPECT_EQ(num_caught<Mistake::too_few_bytes>(), 8);
  EXPECT_EQ(num_caught<Mistake::too_many_bytes>(), 8);
}

TEST(Gpu90, bytes_that_were_not_expected_and_bytes_that_never_come_are_told_apart) {
  EXPECT_NE(outcome<Mistake::too_few_bytes>(0).find("more bytes arrive"), std::string::npos);
  EXPECT_NE(outcome<Mistake::too_many_bytes>(0).find("deadlock"), std::string::npos);
}

/// A map of rows of 64 elements without the swizzle that products read.
CUtensorMap plain_map(const HostTensor& matrix) {
  CUtensorMap map;
  const cuuint64_t sizes[] = {64, 8}, strides[] = {128};
  const cuuint32_t box[] = {64, 8}, steps[] = {1, 1};
  EXPECT_EQ(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<std::byte*>(matrix.bytes.data()),
                                   sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                                   CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            CUDA_SUCCESS);
  return map;
}

/// Element [1, 0] of the box, read where a swizzled one has it.
__global__ void swizzle_kernel(const __grid_constant__ CUtensorMap map, uint16_t* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* barrier = reinterpret_cast<uint64_t*>(shared + 1024);
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_fence_init();
    gpu::mbarrier_expect(barrier, 1024);
    gpu::tma_load(shared, &map, barrier, {0, 0});
  }
  __syncthreads();
  gpu::mbarrier_wait(barrier, 0);
  if (threadIdx.x == 0) *out = *reinterpret_cast<uint16_t*>(shared + 128 + 16);
}

TEST(Gpu90, a_map_without_the_swizzle_puts_elements_elsewhere) {
  HostTensor matrix(DType::bf16, 8, 64);
  for (int64_t i = 0; i < 512; ++i) matrix.set(i / 64, i % 64, static_cast<float>(i % 64 + i / 64 * 100));
  TensorBoxes boxes;
  boxes.base = matrix.bytes.data();
  boxes.rank = 2;
  boxes.sizes = {64, 8};
  boxes.strides = {0, 128};
  boxes.box = {64, 8};
  uint16_t swizzled = 0, plain = 0;
  EXPECT_EQ(fault_of({1, 32, 1032}, swizzle_kernel, tensor_map(boxes), &swizzled), "");
  EXPECT_EQ(fault_of({1, 32, 1032}, swizzle_kernel, plain_map(matrix), &plain), "");
  EXPECT_EQ(bf16_to_float(swizzled), 100);
  EXPECT_EQ(bf16_to_float(plain), 108);
}

TEST(Gpu90, maps_that_the_engine_cannot_read_are_refused) {
  TensorBoxes boxes;
  alignas(16) static std::byte memory[64];
  boxes.base = memory;
  boxes.rank = 2;
  boxes.sizes = {64, 8};
  boxes.strides = {0, 128};
  boxes.box = {64, 8};
  EXPECT_NO_THROW(tensor_map(boxes));
  TensorBoxes wide = boxes;
  wide.box[0] = 128;
  EXPECT_THROW(tensor_map(wide), DeviceError);
  TensorBoxes uneven = boxes;
  uneven.strides[1] = 130;
  EXPECT_THROW(tensor_map(uneven), DeviceError);
  TensorBoxes misaligned = boxes;
  misaligned.base = memory + 2;
  EXPECT_THROW(tensor_map(misaligned), DeviceError);
}

enum class Misuse {
  misaligned_destination,
  destination_outside,
  copy_in_flight,
  over_arrival,
  uninitialised,
  unfenced_init,
  matrix_outside,
  matrix_misaligned,
  no_fence,
  products_in_flight,
  one_warp,
  too_many_registers,
};

template <Misuse kMisuse>
__global__ void misuse_kernel(const __grid_constant__ CUtensorMap map) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);  // 2048 bytes
  auto* barrier = reinterpret_cast<uint64_t*>(shared + 1024);
  if (threadIdx.x == 0 && kMisuse != Misuse::uninitialised) {
    gpu::mbarrier_init(barrier, 1);
    if (kMisuse != Misuse::unfenced_init) gpu::mbarrier_fence_init();
  }
  __syncthreads();
  if (kMisuse <= Misuse::copy_in_flight && threadIdx.x == 0) {
    const int offset = kMisuse == Misuse::misaligned_destination ? 128 : kMisuse == Misuse::destination_outside ? 2048 : 0;
    gpu::mbarrier_expect(barrier, 1024);
    gpu::tma_load(shared + offset, &map, barrier, {0, 0});
  }
  if (kMisuse == Misuse::over_arrival && threadIdx.x == 0) {
    gpu::mbarrier_expect(barrier, 1024);
    gpu::mbarrier_arrive(barrier);
  }
  if (kMisuse == Misuse::uninitialised) gpu::mbarrier_wait(barrier, 0);
  if (kMisuse == Misuse::too_many_registers) gpu::acquire_registers<256>();
  if (kMisuse >= Misuse::matrix_outside && kMisuse <= Misuse::one_warp && (kMisuse != Misuse::one_warp || threadIdx.x < 32)) {
    float sums[4] = {};
    const uint64_t matrix = gpu::matrix_descriptor(shared + (kMisuse == Misuse::matrix_misaligned ? 128 : 0), 16);
    if (kMisuse != Misuse::no_fence) gpu::wgmma_fence();
    // 64 rows need 8 * 1024 bytes.
    const uint32_t a[4] = {};
    if (kMisuse == Misuse::matrix_outside) {
      gpu::wgmma_bf16<gpu::Major::k>(sums, matrix, matrix, true);
    } else {
      gpu::wgmma_bf16<gpu::Major::k>(sums, a, matrix, true);
    }
    gpu::wgmma_commit();
    if (kMisuse != Misuse::products_in_flight) gpu::wgmma_wait<0>();
  }
}

template <Misuse kMisuse>
std::string fault_of_misuse(unsigned threads = 128) {
  static const HostTensor matrix(DType::bf16, 8, 64);
  return fault_of({1, threads, 2048}, misuse_kernel<kMisuse>, plain_map(matrix));
}

template <Misuse kMisuse>
std::string fault_of_swizzled_misuse() {
  static const HostTensor matrix(DType::bf16, 128, 64);
  return fault_of({1, 128, 2048}, misuse_kernel<kMisuse>, map_of(matrix));
}

TEST(Gpu90, what_hopper_leaves_undefined_is_a_fault) {
  expect_fault(fault_of_swizzled_misuse<Misuse::misaligned_destination>(), "TMA");
  expect_fault(fault_of_misuse<Misuse::destination_outside>(), "TMA writes outside");
  EXPECT_NE(fault_of_misuse<Misuse::copy_in_flight>().find("copies in flight"), std::string::npos);
  expect_fault(fault_of_misuse<Misuse::over_arrival>(), "more arrivals");
  expect_fault(fault_of_misuse<Misuse::uninitialised>(), "not initialised");
  expect_fault(fault_of_misuse<Misuse::unfenced_init>(), "fence.mbarrier_init");
  expect_fault(fault_of_misuse<Misuse::matrix_outside>(), "a matrix outside");
  expect_fault(fault_of_misuse<Misuse::matrix_misaligned>(), "does not start in the first row");
  expect_fault(fault_of_misuse<Misuse::no_fence>(), "without wgmma.fence");
  expect_fault(fault_of_misuse<Misuse::products_in_flight>(), "products in flight");
  EXPECT_NE(fault_of_misuse<Misuse::one_warp>().find("of its warpgroup"), std::string::npos);
  expect_fault(fault_of_misuse<Misuse::too_many_registers>(384), "more registers");
}

}  // namespace
}  // namespace pagoda::cuda

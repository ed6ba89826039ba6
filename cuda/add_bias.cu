// out[T, rows] += bias[rows]: a thread per run of eight elements of a row, all rows and runs in parallel, bound by memory (the
// output is read and written once, 2 or 4 bytes an element). cuBLASLt adds a bias itself only if it is of the output's type;
// ours is f32. Called by Gemm.
#include "cuda/gemm.h"
#include "cuda/gpu.h"
#include "cuda/number.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = 8;

template <class T>
struct BiasArgs {
  T* out;  // [.., stride]
  const float* bias;
  int64_t cols, stride;
};

template <class T>
__device__ __forceinline__ void add_one_by_one(T* out, const float* bias, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = from_float<T>(to_float(out[i]) + bias[i]);
}

__device__ __forceinline__ void add_run(Bf16* out, const float (&bias)[kRun]) {
  uint4* words = reinterpret_cast<uint4*>(out);
  float values[kRun];
  unpack_bf16x8(*words, values);
#pragma unroll
  for (int i = 0; i < kRun; ++i) values[i] += bias[i];
  *words = pack_bf16x8(values);
}

__device__ __forceinline__ void add_run(float* out, const float (&bias)[kRun]) {
#pragma unroll
  for (int i = 0; i < kRun; i += 4) {
    float4* four = reinterpret_cast<float4*>(out + i);
    const float4 v = *four;
    *four = make_float4(v.x + bias[i], v.y + bias[i + 1], v.z + bias[i + 2], v.w + bias[i + 3]);
  }
}

template <class T>
__global__ void add_bias_kernel(BiasArgs<T> args) {
  const int64_t col = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kRun;
  const bool whole = col + kRun <= args.cols;
  float bias[kRun];
  if (whole) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) bias[i] = args.bias[col + i];
  }
  gpu::wait_for_grid();
  gpu::launch_dependents();
  if (col >= args.cols) return;
  T* out = args.out + static_cast<int64_t>(blockIdx.x) * args.stride + col;
  if (whole) {
    add_run(out, bias);
  } else {
    add_one_by_one(out, args.bias + col, args.cols - col);
  }
}

template <class T>
void launch_add_bias(const Queue& queue, const Tensor& out, const float* bias) {
  const BiasArgs<T> args{out.as<T>(), bias, out.cols(), out.row_stride};
  const LaunchShape shape{{static_cast<unsigned>(out.rows()), static_cast<unsigned>(divide_up(out.cols(), kThreads * kRun))},
                          kThreads};
  launch(queue, shape, "add_bias", add_bias_kernel<T>, args);
}

}  // namespace

void add_bias(const Queue& queue, const Tensor& out, const float* bias) {
  if (out.dtype == DType::f32) {
    launch_add_bias<float>(queue, out, bias);
  } else {
    launch_add_bias<Bf16>(queue, out, bias);
  }
}

}  // namespace pagoda::cuda

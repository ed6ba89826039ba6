// Norms of rows, alone and after an addition. Parallel over rows: a warp for each short row, a CTA of 256 threads for each
// other; as many blocks as are resident take the rows in turn and keep the weights in registers. The row stays in registers
// between its sums and its output; a longer one is read again. Bound by memory: norm moves 2 times and add_norm 4 times the
// tensor, and one row takes the latency of a load and of the sum. The order of a row's sums depends on its length alone. Called
// by CudaBackend.
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace pagoda::cuda {
namespace {

struct NormParams {
  Rows<Bf16> out;
  Rows<const Bf16> x;
  Rows<Bf16> residual;  ///< add_norm only
  float scale;
  Norm norm;
  int64_t rows;
  int cols;
  bool aligned;  ///< all rows and the weights
};

/// sum = sum + scale * x, rounded, which also goes to the residual: a later norm of the residual gives the same bits.
__device__ __forceinline__ void add_vector(Packed<Bf16>& sum, const Packed<Bf16>& x, const NormParams& p, int64_t row,
                                           int col) {
  float terms[kVector], sums[kVector];
  unpack(x, terms);
  unpack(sum, sums);
#pragma unroll
  for (int i = 0; i < kVector; ++i) sums[i] = fmaf(p.scale, terms[i], sums[i]);
  pack(sum, sums);
  store_vector(p.residual.at(row, col), sum, p.cols - col, p.aligned);
}

/// A thread's vectors `lane`, `lane` + kThreads, ... of a row, in registers with their weights.
template <int kRowThreads, int kVectors, bool kAdd>
struct RowInRegisters {
  static constexpr int kThreads = kRowThreads;
  Packed<Bf16> x[kVectors];
  float weights[kVectors][kVector];

  __device__ __forceinline__ static int column(int lane, int k) { return (lane + k * kThreads) * kVector; }

  __device__ __forceinline__ void load_weights(const NormParams& p, int lane) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int col = column(lane, k);
      unpack(load_vector<float>(p.norm.weight + col, p.cols - col, p.aligned), weights[k]);
    }
  }
  __device__ __forceinline__ void load(const NormParams& p, int64_t row, int lane) {
    [[maybe_unused]] Packed<Bf16> terms[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int col = column(lane, k);
      x[k] = load_vector<Bf16>(kAdd ? p.residual.at(row, col) : p.x.at(row, col), p.cols - col, p.aligned);
      if constexpr (kAdd) terms[k] = load_vector<Bf16>(p.x.at(row, col), p.cols - col, p.aligned);
    }
    if constexpr (kAdd) {
#pragma unroll
      for (int k = 0; k < kVectors; ++k) add_vector(x[k], terms[k], p, row, column(lane, k));
    }
  }
  /// use(column, its eight values, their weights), ascending.
  template <class Use>
  __device__ __forceinline__ void for_each(const NormParams&, int64_t, int lane, Use use) const {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      float values[kVector];
      unpack(x[k], values);
      use(column(lane, k), values, weights[k]);
    }
  }
};

/// The same of a row that is read again each time.
template <int kRowThreads, bool kAdd>
struct RowInMemory {
  static constexpr int kThreads = kRowThreads;

  __device__ __forceinline__ void load_weights(const NormParams&, int) {}
  __device__ __forceinline__ void load(const NormParams& p, int64_t row, int lane) {
    for (int col = lane * kVector; kAdd && col < p.cols; col += kThreads * kVector) {
      Packed<Bf16> sum = load_vector<Bf16>(p.residual.at(row, col), p.cols - col, p.aligned);
      add_vector(sum, load_vector<Bf16>(p.x.at(row, col), p.cols - col, p.aligned), p, row, col);
    }
  }
  template <class Use>
  __device__ __forceinline__ void for_each(const NormParams& p, int64_t row, int lane, Use use) const {
    const Bf16* x = kAdd ? p.residual.at(row, 0) : p.x.at(row, 0);
    for (int col = lane * kVector; col < p.cols; col += kThreads * kVector) {
      float values[kVector], weights[kVector];
      unpack(load_vector<float>(p.norm.weight + col, p.cols - col, p.aligned), weights);
      unpack(load_vector<Bf16>(x + col, p.cols - col, p.aligned), values);
      use(col, values, weights);
    }
  }
};

template <int kThreads>
__device__ __forceinline__ float row_sum(float value, float* scratch) {
  if constexpr (kThreads == 32) {
    return warp_sum(value);
  } else {
    return block_sum<kThreads / 32>(value, scratch);
  }
}

/// A value becomes (value - mean - rest) * inverse.
struct Moments {
  float mean, rest, inverse;
};

template <class Row>
__device__ __forceinline__ Moments moments(const Row& x, const NormParams& p, int64_t row, int lane) {
  DYNAMIC_SHARED(shared);
  float* scratch = reinterpret_cast<float*>(shared);
  const float n = static_cast<float>(p.cols);
  float sum = 0, squares = 0;
  if (p.norm.kind == NormKind::rms) {
    x.for_each(p, row, lane, [&](int, const float (&v)[kVector], const float (&)[kVector]) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) squares = fmaf(v[i], v[i], squares);
    });
    return {0, 0, 1.0f / sqrtf(row_sum<Row::kThreads>(squares, scratch) / n + p.norm.eps)};
  }
  x.for_each(p, row, lane, [&](int, const float (&v)[kVector], const float (&)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += v[i];
  });
  const float mean = row_sum<Row::kThreads>(sum, scratch) / n;
  // A mean in f32 can be wrong by more than the differences from it are large, so their own mean is taken too.
  sum = 0;
  x.for_each(p, row, lane, [&](int col, const float (&v)[kVector], const float (&)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float difference = col + i < p.cols ? v[i] - mean : 0.0f;
      sum += difference;
      squares = fmaf(difference, difference, squares);
    }
  });
  const float rest = row_sum<Row::kThreads>(sum, scratch) / n;
  const float variance = row_sum<Row::kThreads>(squares, scratch) / n - rest * rest;  // below 0 by rounding; NaN stays NaN
  return {mean, rest, 1.0f / sqrtf((variance < 0 ? 0 : variance) + p.norm.eps)};
}

template <class Row>
__device__ __forceinline__ void store_normed(const Row& x, const Moments& m, const NormParams& p, int64_t row, int lane) {
  x.for_each(p, row, lane, [&](int col, const float (&v)[kVector], const float (&weights)[kVector]) {
    const int count = p.cols - col;
    if (count <= 0) return;
    float out[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = (v[i] - m.mean - m.rest) * m.inverse * weights[i];
    if (p.norm.kind == NormKind::layer && p.norm.bias) {
      float bias[kVector];
      unpack(load_vector<float>(p.norm.bias + col, count, p.aligned), bias);
#pragma unroll
      for (int i = 0; i < kVector; ++i) out[i] = fmaf((v[i] - m.mean - m.rest) * m.inverse, weights[i], bias[i]);
    }
    Packed<Bf16> packed;
    pack(packed, out);
    store_vector(p.out.at(row, col), packed, count, p.aligned);
  });
}

/// Row::kThreads threads for each row, kBlock / Row::kThreads rows at a time to a block; kResident blocks fit a multiprocessor.
template <class Row, int kBlock, int kResident>
__global__ void __launch_bounds__(kBlock, kResident) norm_kernel(NormParams p) {
  constexpr int kRows = kBlock / Row::kThreads;
  const int lane = static_cast<int>(threadIdx.x) % Row::kThreads;
  Row x;
  x.load_weights(p, lane);
  gpu::wait_for_grid();
  gpu::launch_dependents();
  for (int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / Row::kThreads; row < p.rows;
       row += int64_t{gridDim.x} * kRows) {
    x.load(p, row, lane);
    store_normed(x, moments(x, p, row, lane), p, row, lane);
  }
}

template <class Row, int kBlock, int kResident>
void launch_norm(const Queue& queue, const char* name, const NormParams& p) {
  const int64_t blocks = divide_up(p.rows, kBlock / Row::kThreads);
  const int64_t resident = int64_t{queue.num_multiprocessors} * kResident;
  const LaunchShape shape{static_cast<unsigned>(blocks < resident ? blocks : resident), kBlock, kBlock / 32 * sizeof(float)};
  launch(queue, shape, name, norm_kernel<Row, kBlock, kResident>, p);
}

template <bool kAdd>
void launch_norm(const Queue& queue, const char* name, const NormParams& p) {
  constexpr int kBlock = 256;
  const int64_t vectors = divide_up(p.cols, kVector);
  if (vectors <= 4 * 32) return launch_norm<RowInRegisters<32, 4, kAdd>, 128, 4>(queue, name, p);
  if (vectors <= kBlock) return launch_norm<RowInRegisters<kBlock, 1, kAdd>, kBlock, 5>(queue, name, p);
  if (vectors <= 2 * kBlock) return launch_norm<RowInRegisters<kBlock, 2, kAdd>, kBlock, 4>(queue, name, p);
  if (vectors <= 4 * kBlock) return launch_norm<RowInRegisters<kBlock, 4, kAdd>, kBlock, 2>(queue, name, p);
  launch_norm<RowInMemory<kBlock, kAdd>, kBlock, 5>(queue, name, p);
}

NormParams params_of(const Tensor& out, const Tensor& x, const Norm& norm) {
  const bool aligned = rows_are_aligned(out) && rows_are_aligned(x) && is_aligned(norm.weight) && is_aligned(norm.bias);
  return {rows_of<Bf16>(out), rows_of<const Bf16>(x), {}, 0, norm, x.rows(), static_cast<int>(x.cols()), aligned};
}

}  // namespace

void norm(const Queue& queue, const Tensor& out, const Tensor& x, const Norm& norm) {
  launch_norm<false>(queue, "norm", params_of(out, x, norm));
}

void add_norm(const Queue& queue, const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm) {
  NormParams p = params_of(out, x, norm);
  p.residual = rows_of<Bf16>(residual);
  p.scale = scale;
  p.aligned = p.aligned && rows_are_aligned(residual);
  launch_norm<true>(queue, "add_norm", p);
}

}  // namespace pagoda::cuda

// Operations on every element by itself. Parallel over vectors of eight elements, two to a thread, whatever row they are in.
// Bound by memory: add, scale, activation and sigmoid_scale move 2 or 3 times the tensor, gated_activation 3 and gather_rows 2
// times the output; the exponentials, about 22 instructions an element, stay below half of what can be issued meanwhile. Called
// by CudaBackend.
#include "cuda/activation.cuh"
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"

namespace pagoda::cuda {
namespace {

constexpr int kUnroll = 2;
using Grid = VectorGrid<kUnroll>;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// residual += scale * x.
__global__ void __launch_bounds__(kVectorThreads) add_kernel(Rows<Bf16> residual, Rows<const Bf16> x, float scale, Grid grid) {
  gpu::wait_for_grid();
  VectorPlace places[kUnroll];
  grid.places(places);
  Packed<Bf16> sums[kUnroll], terms[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    sums[i] = load_vector<Bf16>(residual.at(row, col), count, grid.aligned);
    terms[i] = load_vector<Bf16>(x.at(row, col), count, grid.aligned);
  }
  gpu::launch_dependents();
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    float sum[kVector], term[kVector];
    unpack(sums[i], sum);
    unpack(terms[i], term);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum[j] = fmaf(scale, term[j], sum[j]);
    pack(sums[i], sum);
    store_vector(residual.at(row, col), sums[i], count, grid.aligned);
  }
}

/// x = function(row)(x), in place; `function(row)` is what the row's values have in common.
template <class T, class Function>
__global__ void __launch_bounds__(kVectorThreads) map_kernel(Rows<T> x, Grid grid, Function function) {
  gpu::wait_for_grid();
  VectorPlace places[kUnroll];
  grid.places(places);
  Packed<T> vectors[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    vectors[i] = load_vector<T>(x.at(places[i].row, places[i].col), places[i].count, grid.aligned);
  }
  gpu::launch_dependents();
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    if (count <= 0) continue;
    const auto of_row = function(row);
    float values[kVector];
    unpack(vectors[i], values);
#pragma unroll
    for (int j = 0; j < kVector; ++j) values[j] = of_row(values[j]);
    pack(vectors[i], values);
    store_vector(x.at(row, col), vectors[i], count, grid.aligned);
  }
}

template <class T, class Function>
void map(const Queue& queue, const Tensor& x, const char* name, Function function) {
  const Grid grid(x.rows(), x.cols(), rows_are_aligned(x));
  launch(queue, grid.launch_shape(), name, map_kernel<T, Function>, rows_of<T>(x), grid, function);
}

struct Scaled {
  float factor;
  __device__ const Scaled& operator()(int64_t) const { return *this; }
  __device__ float operator()(float x) const { return factor * x; }
};

struct Capped {
  float factor, cap;
  __device__ const Capped& operator()(int64_t) const { return *this; }
  __device__ float operator()(float x) const { return cap * tanhf(factor * x / cap); }
};

template <Activation kActivation>
struct Activated {
  __device__ const Activated& operator()(int64_t) const { return *this; }
  __device__ float operator()(float x) const { return activate<kActivation>(x); }
};

/// Rows times the sigmoid of their gate.
struct SigmoidScaled {
  Rows<const Bf16> gate;
  __device__ Scaled operator()(int64_t row) const { return {sigmoid(to_float(*gate.at(row, 0)))}; }
};

template <class T>
void scale_as(const Queue& queue, const Tensor& x, float factor, float cap) {
  if (cap > 0) return map<T>(queue, x, "scale", Capped{factor, cap});
  map<T>(queue, x, "scale", Scaled{factor});
}

template <Activation kActivation>
__global__ void __launch_bounds__(kVectorThreads)
    gated_activation_kernel(Rows<Bf16> out, Rows<const Bf16> gate, Rows<const Bf16> up, Grid grid) {
  gpu::wait_for_grid();
  VectorPlace places[kUnroll];
  grid.places(places);
  Packed<Bf16> gates[kUnroll], ups[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    gates[i] = load_vector<Bf16>(gate.at(row, col), count, grid.aligned);
    ups[i] = load_vector<Bf16>(up.at(row, col), count, grid.aligned);
  }
  gpu::launch_dependents();
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    float g[kVector], u[kVector];
    unpack(gates[i], g);
    unpack(ups[i], u);
#pragma unroll
    for (int j = 0; j < kVector; ++j) g[j] = gated<kActivation>(g[j], u[j]);
    pack(gates[i], g);
    store_vector(out.at(row, col), gates[i], count, grid.aligned);
  }
}

template <Activation kActivation>
void gated_as(const Queue& queue, const Tensor& out, const Tensor& gate_up) {
  const int64_t cols = out.cols();
  const Grid grid(out.rows(), cols, rows_are_aligned(out) && rows_are_aligned(gate_up) && cols % kVector == 0);
  const Rows<const Bf16> gate = rows_of<const Bf16>(gate_up), up{gate.data + cols, gate.stride};
  launch(queue, grid.launch_shape(), "gated_activation", gated_activation_kernel<kActivation>, rows_of<Bf16>(out), gate, up,
         grid);
}

__global__ void __launch_bounds__(kVectorThreads)
    gather_rows_kernel(Rows<Bf16> out, Rows<const Bf16> x, const int32_t* rows, Grid grid) {
  gpu::wait_for_grid();
  VectorPlace places[kUnroll];
  grid.places(places);
  Packed<Bf16> vectors[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    const int64_t from = count > 0 ? rows[row] : 0;
    vectors[i] = load_vector<Bf16>(x.at(from, col), count, grid.aligned);
  }
  gpu::launch_dependents();
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    store_vector(out.at(places[i].row, places[i].col), vectors[i], places[i].count, grid.aligned);
  }
}

}  // namespace

void add(const Queue& queue, const Tensor& residual, const Tensor& x, float scale) {
  const Grid grid(x.rows(), x.cols(), rows_are_aligned(residual) && rows_are_aligned(x));
  launch(queue, grid.launch_shape(), "add", add_kernel, rows_of<Bf16>(residual), rows_of<const Bf16>(x), scale, grid);
}

void scale(const Queue& queue, const Tensor& x, float factor, float cap) {
  if (x.dtype == DType::f32) return scale_as<float>(queue, x, factor, cap);
  scale_as<Bf16>(queue, x, factor, cap);
}

void gated_activation(const Queue& queue, const Tensor& out, const Tensor& gate_up, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return gated_as<Activation::silu>(queue, out, gate_up);
    case Activation::gelu_tanh:
      return gated_as<Activation::gelu_tanh>(queue, out, gate_up);
    case Activation::gelu:
      return gated_as<Activation::gelu>(queue, out, gate_up);
    case Activation::relu:
      return gated_as<Activation::relu>(queue, out, gate_up);
    case Activation::clamped_swiglu:
      return gated_as<Activation::clamped_swiglu>(queue, out, gate_up);
  }
}

void activation(const Queue& queue, const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return map<Bf16>(queue, x, "activation", Activated<Activation::silu>{});
    case Activation::gelu_tanh:
      return map<Bf16>(queue, x, "activation", Activated<Activation::gelu_tanh>{});
    case Activation::gelu:
      return map<Bf16>(queue, x, "activation", Activated<Activation::gelu>{});
    case Activation::relu:
      return map<Bf16>(queue, x, "activation", Activated<Activation::relu>{});
    case Activation::clamped_swiglu:
      return;  // needs a gate
  }
}

void sigmoid_scale(const Queue& queue, const Tensor& x, const Tensor& gate) {
  map<Bf16>(queue, x, "sigmoid_scale", SigmoidScaled{rows_of<const Bf16>(gate)});
}

void gather_rows(const Queue& queue, const Tensor& out, const Tensor& x, const int32_t* rows) {
  const Grid grid(out.rows(), out.cols(), rows_are_aligned(out) && rows_are_aligned(x));
  launch(queue, grid.launch_shape(), "gather_rows", gather_rows_kernel, rows_of<Bf16>(out), rows_of<const Bf16>(x), rows, grid);
}

}  // namespace pagoda::cuda

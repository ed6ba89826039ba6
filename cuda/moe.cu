// The router of a mixture of experts, with the bits of the CPU's (backend/cpu/routing.cc), and the sum of the experts' outputs.
// Choosing: a warp per token, top_k passes over its logits, in registers for up to 512 experts; bound by the latency of a pass.
// Sorting: one block, a stable counting sort of the pairs, bound by latency too: a few us up to some thousand pairs, about
// 1 us per 3000 beyond. Combining: parallel over vectors of eight outputs; bound by memory, reads top_k rows for each that it
// writes. Called by CudaBackend.
#include <algorithm>
#include <climits>

#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"

namespace pagoda::cuda {
namespace {

/// Orders logits as integers above INT_MIN: -0 equals 0, NaN is on top.
__device__ __forceinline__ int order_of(float logit) {
  if (logit != logit) return INT_MAX;
  const int bits = __float_as_int(logit + 0.0f);
  return bits < 0 ? bits ^ INT_MAX : bits;
}

/// e^x for x <= 0 (or NaN) as backend/cpu/simd.h computes it portably, product and sum rounded apart.
__device__ __forceinline__ float exponential(float x) {
  const float magic = 12582912.0f + 127.0f;
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  float r = n * -0.693359375f + x;
  r = n * 2.12194440e-4f + r;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (r * r) * p + (r + 1.0f);
  return x < -87.33f ? 0.0f : p * __uint_as_float(__float_as_uint(shifted) << 23);
}

/// A token's logits, of which lane l looks at l, l + 32, ...: in registers if kPerLane suffices for all, else (0) in memory.
template <int kPerLane>
class WarpLogits {
 public:
  __device__ WarpLogits(const float* row, int count) : row_(row), count_(count), lane_(static_cast<int>(threadIdx.x) % 32) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) orders_[i] = i * 32 + lane_ < count ? order_of(row[i * 32 + lane_]) : INT_MIN;
  }

  /// The best expert after `expert` of order `order` (first: INT_MAX, -1), which it replaces, in every lane.
  __device__ __forceinline__ void next(int& order, int& expert) const {
    int best_order = INT_MIN, best = 0;
    const auto look = [&](int own, int e) {
      const bool after = own < order || (own == order && e > expert);
      if (after && own > best_order) best_order = own, best = e;
    };
    if constexpr (kPerLane > 0) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) look(orders_[i], i * 32 + lane_);
    } else {
      for (int e = lane_; e < count_; e += 32) look(order_of(row_[e]), e);
    }
    order = __reduce_max_sync(~0u, best_order);
    expert = ~__reduce_max_sync(~0u, best_order == order ? ~best : INT_MIN);  // of equal ones the lowest
  }

  /// The sum of e^(logit - maximum) in 16 lanes, lane c over c, c + 16, ..., which halve; in every lane.
  __device__ float sum_of_exponentials(float maximum) const {
    float sum = 0;
    for (int e = lane_ % 16; e < count_; e += 16) sum += exponential(row_[e] - maximum);
#pragma unroll
    for (int half = 8; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
    return sum;
  }

 private:
  const float* row_;
  int count_, lane_;
  int orders_[kPerLane > 0 ? kPerLane : 1];
};

constexpr int kRouteThreads = 128;

template <int kPerLane>
__global__ void __launch_bounds__(kRouteThreads)
    choose_experts_kernel(Routing out, const float* logits, int64_t stride, RouteArgs args) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  const int64_t token = int64_t{blockIdx.x} * (kRouteThreads / 32) + threadIdx.x / 32;
  if (token >= out.num_tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, k = out.top_k;
  const float* const row = logits + token * stride;
  int* const experts = out.experts + token * k;
  float* const weights = out.weights + token * k;
  const WarpLogits<kPerLane> all(row, out.num_experts);

  // Choice j is lane j % 32's: nobody else reads what it writes.
  int order = INT_MAX, expert = -1;
  float maximum = 0;
  for (int j = 0; j < k; ++j) {
    all.next(order, expert);
    if (j == 0) maximum = row[expert];
    if (lane == j % 32) experts[j] = expert;
  }
  float chosen_sum = 0;
  for (int first = 0; first < k; first += 32) {
    const int j = first + lane;
    const float weight = j < k ? exponential(row[experts[j]] - maximum) : 0.0f;
    if (j < k) weights[j] = weight;
    for (int i = 0; i < min(32, k - first); ++i) chosen_sum += __shfl_sync(~0u, weight, i);
  }
  const bool over_all = args.softmax_first && !args.normalise;
  const float sum = over_all ? all.sum_of_exponentials(maximum) : chosen_sum;
  for (int j = lane; j < k; j += 32) weights[j] = weights[j] / sum * args.scale;
}

constexpr int kSortWarps = 32;
constexpr int kSortBatch = 4;  ///< times 32 pairs that a warp reads at once

/// Calls visit(pair, expert, lanes with the same expert) for a warp's pairs [begin, end), 32 at a time and in order, by all
/// lanes; past the end the expert is -1.
template <class Visit>
__device__ __forceinline__ void visit_pairs(const int32_t* experts, int64_t begin, int64_t end, Visit&& visit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t first = begin; first < end; first += 32 * kSortBatch) {
    int expert[kSortBatch];
#pragma unroll
    for (int i = 0; i < kSortBatch; ++i) {
      const int64_t pair = first + 32 * i + lane;
      expert[i] = pair < end ? experts[pair] : -1;
    }
#pragma unroll
    for (int i = 0; i < kSortBatch; ++i) visit(first + 32 * i + lane, expert[i], __match_any_sync(~0u, expert[i]));
  }
}

/// Turns totals[count] into the sums before each; returns the sum of all. By one warp.
__device__ __forceinline__ int scan_in_warp(int* totals, int count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int first = 0; first < count; first += 32) {
    const int at = first + lane, total = at < count ? totals[at] : 0;
    int upto = total;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int lower = __shfl_up_sync(~0u, upto, static_cast<unsigned>(offset));
      if (lane >= offset) upto += lower;
    }
    if (at < count) totals[at] = before + upto - total;
    before += __shfl_sync(~0u, upto, 31);
  }
  return before;
}

/// One block: each warp counts its range of the pairs by expert; a pair's place is the number of pairs of lower experts, of the
/// same expert in the ranges of lower warps, and of the same expert before it in its own.
__global__ void __launch_bounds__(32 * kSortWarps) sort_pairs_kernel(Routing out) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  DYNAMIC_SHARED(shared);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), lane = thread % 32;
  const int warps = threads / 32, num_experts = out.num_experts;
  int* const starts = reinterpret_cast<int*>(shared);  // [E]
  int* const counts = starts + num_experts;            // [warps, E]
  int* const own = counts + thread / 32 * num_experts;
  const int64_t num_pairs = out.num_tokens * out.top_k, range = (num_pairs + warps - 1) / warps;
  const int64_t begin = thread / 32 * range, end = min(begin + range, num_pairs);

  for (int i = thread; i < warps * num_experts; i += threads) counts[i] = 0;
  __syncthreads();
  visit_pairs(out.experts, begin, end, [&](int64_t, int expert, unsigned same) {
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1) own[expert] += __popc(same);
    __syncwarp();
  });
  __syncthreads();
  for (int expert = thread; expert < num_experts; expert += threads) {
    int total = 0;
    for (int warp = 0; warp < warps; ++warp) {
      const int count = counts[warp * num_experts + expert];
      counts[warp * num_experts + expert] = total;
      total += count;
    }
    starts[expert] = total;
  }
  __syncthreads();
  if (thread < 32) {
    const int total = scan_in_warp(starts, num_experts);
    if (thread == 0) out.expert_start[num_experts] = total;
  }
  __syncthreads();
  for (int expert = thread; expert < num_experts; expert += threads) out.expert_start[expert] = starts[expert];
  visit_pairs(out.experts, begin, end, [&](int64_t pair, int expert, unsigned same) {
    if (expert >= 0) {
      const int place = starts[expert] + own[expert] + __popc(same & ((1u << lane) - 1));
      out.pairs[place] = static_cast<int32_t>(pair);
      out.places[pair] = place;
    }
    __syncwarp();
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1) own[expert] += __popc(same);
    __syncwarp();
  });
}

void sort_pairs(const Queue& queue, const Routing& out) {
  const auto row_bytes = static_cast<size_t>(out.num_experts) * sizeof(int);
  const int64_t fitting = std::max<int64_t>(static_cast<int64_t>(queue.shared_bytes / row_bytes) - 1, 1);
  const int64_t wanted = std::clamp<int64_t>(divide_up(out.num_pairs(), 64), 1, kSortWarps);
  const auto warps = static_cast<unsigned>(std::min(wanted, fitting));
  launch(queue, {1, 32 * warps, (warps + 1) * row_bytes}, "sort_pairs", sort_pairs_kernel, out);
}

using CombineGrid = VectorGrid<1>;
constexpr int kCombineBatch = 4;  ///< experts' rows under way at once

__global__ void __launch_bounds__(kVectorThreads)
    combine_experts_kernel(Rows<Bf16> out, Rows<const Bf16> y, Routing routing, CombineGrid grid) {
  gpu::wait_for_grid();
  gpu::launch_dependents();
  VectorPlace places[1];
  grid.places(places);
  const auto [token, col, count] = places[0];
  if (count <= 0) return;
  const int k = routing.top_k;
  const int32_t* const rows = routing.places + token * k;
  const float* const weights = routing.weights + token * k;
  float sum[kVector] = {};
  for (int first = 0; first < k; first += kCombineBatch) {
    Packed<Bf16> loaded[kCombineBatch];
#pragma unroll
    for (int i = 0; i < kCombineBatch; ++i) {
      if (first + i < k) loaded[i] = load_vector(y.at(rows[first + i], col), count, grid.aligned);
    }
#pragma unroll
    for (int i = 0; i < kCombineBatch; ++i) {
      if (first + i >= k) continue;
      float values[kVector];
      unpack(loaded[i], values);
      const float weight = weights[first + i];
#pragma unroll
      for (int j = 0; j < kVector; ++j) sum[j] = fmaf(weight, values[j], sum[j]);
    }
  }
  Packed<Bf16> packed;
  pack(packed, sum);
  store_vector(out.at(token, col), packed, count, grid.aligned);
}

}  // namespace

void route(const Queue& queue, const Routing& out, const Tensor& logits, const RouteArgs& args) {
  const auto start = [&](auto kernel) {
    const auto blocks = static_cast<unsigned>(divide_up(out.num_tokens, kRouteThreads / 32));
    launch(queue, {blocks, kRouteThreads}, "choose_experts", kernel, out, logits.as<const float>(), logits.row_stride, args);
  };
  if (out.num_experts <= 4 * 32) {
    start(choose_experts_kernel<4>);
  } else if (out.num_experts <= 16 * 32) {
    start(choose_experts_kernel<16>);
  } else {
    start(choose_experts_kernel<0>);
  }
  sort_pairs(queue, out);  // writes expert_start even if there are no pairs
}

void combine_experts(const Queue& queue, const Tensor& out, const Tensor& y, const Routing& routing) {
  const CombineGrid grid(out.rows(), out.cols(), rows_are_aligned(out) && rows_are_aligned(y));
  launch(queue, grid.launch_shape(), "combine_experts", combine_experts_kernel, rows_of<Bf16>(out), rows_of<const Bf16>(y),
         routing, grid);
}

}  // namespace pagoda::cuda

// One pass over the fused projection q | k | v of every token: optional norm of each q and k head, rotary embedding, q back in
// place, k and v into the paged cache; all in f32 and rounded once. Parallel over (token, head): a few lanes for each, every
// lane with the two vectors of eight that are rotated against each other. Bound by memory: reads qkv once, writes as much; one
// token takes the latency of two loads. Heads that vectors do not fit are taken value by value, a warp each. Called by
// CudaBackend.
#include <bit>

#include "cuda/attention_common.cuh"
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;

struct RopeStoreParams {
  AttentionParams cache;  ///< of which only the heads and the cache's layout count
  void* kv;
  Rows<Bf16> qkv;
  const int32_t* positions;  ///< [T]
  const int32_t* slots;      ///< [T]
  RopeStoreArgs args;
  int64_t tokens;
  int first_head;  ///< q heads that nothing happens to are left out
  int lane_shift;  ///< log2 of the lanes of a head
};

/// What is to be done with a head of a token.
struct Head {
  int64_t token = 0;
  int head = 0;         ///< in q | k | v
  int value = -1;       ///< 0: k, 1: v; -1: q
  int kv_head = 0;      ///< k and v
  int32_t slot = -1;    ///< k and v; -1: not stored
  bool exists = false;  ///< and something is to be done with it
  bool normed = false;
  bool rotated = false;
  const float* weights;  ///< [head_dim] of its norm, if normed
  const float* angles;   ///< rotary_dim / 2 cosines, then as many sines, if rotated
};

/// Head number `index` of the grid's block; reads nothing but the step's constants.
__device__ __forceinline__ Head head_of(const RopeStoreParams& p, unsigned heads_per_block, unsigned index) {
  const RopeStoreArgs& args = p.args;
  const unsigned heads = static_cast<unsigned>(args.num_heads + 2 * args.kv_heads - p.first_head);
  const int64_t first = int64_t{blockIdx.x} * heads_per_block;
  const int64_t first_token = first / heads;
  const unsigned from_token = static_cast<unsigned>(first - first_token * heads) + index;
  Head h;
  h.token = first_token + from_token / heads;
  h.head = static_cast<int>(from_token % heads) + p.first_head;
  h.exists = h.token < p.tokens;
  if (!h.exists) h.token = 0;
  const int k_head = h.head - args.num_heads;
  if (k_head >= 0) {
    h.value = k_head >= args.kv_heads;
    h.kv_head = k_head - h.value * args.kv_heads;
    h.slot = p.slots[h.token];
    h.exists &= h.slot >= 0;
  }
  const float* norm = h.value < 0 ? args.q_norm : args.k_norm;
  h.normed = h.value < 1 && norm;
  h.weights = norm;
  if (h.normed) h.weights += (h.value < 0 ? h.head : h.kv_head) * args.norm_stride;
  h.rotated = h.value < 1 && args.rotary_dim;
  h.angles = args.cos_sin;
  if (h.rotated) h.angles += static_cast<int64_t>(p.positions[h.token]) * args.rotary_dim;
  return h;
}

template <class T>
__device__ __forceinline__ T* cache_at(const RopeStoreParams& p, const Head& h) {
  const int offset = h.slot & ((1 << p.cache.block_shift) - 1);
  return static_cast<T*>(p.kv) + p.cache.kv_offset(h.slot >> p.cache.block_shift, h.value, h.kv_head, offset);
}

/// Eight values of the cache's type, at a multiple of their size.
__device__ __forceinline__ void store_kv(Bf16* to, const float (&v)[kVector]) {
  *reinterpret_cast<uint4*>(to) = pack_bf16x8(v);
}
__device__ __forceinline__ void store_kv(F16* to, const float (&v)[kVector]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(gpu::pack_f16(v[0], v[1]), gpu::pack_f16(v[2], v[3]), gpu::pack_f16(v[4], v[5]), gpu::pack_f16(v[6], v[7]));
}
__device__ __forceinline__ void store_kv(E4m3* to, const float (&v)[kVector]) {
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < kVector; ++i) words[i / 4] |= uint32_t{from_float<E4m3>(v[i]).bits} << (i % 4 * 8);
  *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

/// Both halves of a rotated pair, as the CPU backend rounds them.
__device__ __forceinline__ void rotate(float& low, float& high, float cosine, float sine) {
  const float a = low, b = high;
  low = a * cosine - b * sine;
  high = fmaf(a, sine, b * cosine);
}

/// The sum over `lanes` adjacent lanes, a power of two, in each of them.
__device__ __forceinline__ float lanes_sum(float value, int lanes) {
  for (int offset = lanes / 2; offset; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

/// A lane's two vectors of a head: rotated against each other, or (past rotary_dim) two that follow each other.
struct LanePair {
  int col[2];
  bool valid[2];
  bool rotated;
};

__device__ __forceinline__ LanePair pair_of(const RopeStoreArgs& args, int unit) {
  const int half = args.rotary_dim / 2, first = unit * kVector;
  if (first < half) return {{first, half + first}, {true, true}, true};
  const int col = 2 * first;  // rotary_dim + 2 * (first - half)
  return {{col, col + kVector}, {col < args.head_dim, col + kVector < args.head_dim}, false};
}

/// What happens to the heads that have weights.
enum class HeadNorms : uint8_t { none, rms, layer };

/// Norms a head of which each lane holds a pair, zeros where it is not valid. All lanes of the warp take part, those whose head
/// is not `normed` for nothing.
template <HeadNorms kNorms>
__device__ __forceinline__ void norm_head(float (&v)[2][kVector], const float (&weights)[2][kVector], const LanePair& pair,
                                          const RopeStoreParams& p, bool normed) {
  const int lanes = 1 << p.lane_shift;
  const float n = static_cast<float>(p.args.head_dim);
  float rest = 0;
  if constexpr (kNorms == HeadNorms::layer) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 2 * kVector; ++i) sum += v[i / kVector][i % kVector];
    const float mean = lanes_sum(sum, lanes) / n;
    sum = 0;
#pragma unroll
    for (int i = 0; i < 2 * kVector; ++i) {
      float& value = v[i / kVector][i % kVector];
      if (normed && pair.valid[i / kVector]) value -= mean;
      sum += value;
    }
    rest = lanes_sum(sum, lanes) / n;  // of a mean that f32 holds badly, see norm.cu
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 2 * kVector; ++i) squares = fmaf(v[i / kVector][i % kVector], v[i / kVector][i % kVector], squares);
  const float variance = lanes_sum(squares, lanes) / n - rest * rest;
  if (!normed) return;
  const float inverse = 1.0f / sqrtf((variance < 0 ? 0 : variance) + p.args.norm_eps);
#pragma unroll
  for (int i = 0; i < 2 * kVector; ++i) {
    v[i / kVector][i % kVector] = (v[i / kVector][i % kVector] - rest) * inverse * weights[i / kVector][i % kVector];
  }
}

/// Blocks that fit a multiprocessor: few enough that no register is spilled.
constexpr int resident_blocks(HeadNorms norms) { return norms == HeadNorms::none ? 4 : norms == HeadNorms::rms ? 3 : 2; }

template <class T, HeadNorms kNorms>
__global__ void __launch_bounds__(kThreads, resident_blocks(kNorms)) rope_store_kernel(RopeStoreParams p) {
  const unsigned heads_per_block = static_cast<unsigned>(kThreads) >> p.lane_shift;
  const Head h = head_of(p, heads_per_block, threadIdx.x >> p.lane_shift);
  LanePair pair = pair_of(p.args, static_cast<int>(threadIdx.x) & ((1 << p.lane_shift) - 1));
  [[maybe_unused]] float weights[2][kVector] = {};
  float angles[2][kVector];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    pair.valid[i] &= h.exists;
    if (kNorms != HeadNorms::none && h.normed && pair.valid[i]) {
      unpack(load_vector<float>(h.weights + pair.col[i], kVector, true), weights[i]);
    }
    // columns of a rotated pair are those of its cosines and sines
    if (h.rotated && pair.rotated) unpack(load_vector<float>(h.angles + pair.col[i], kVector, true), angles[i]);
  }
  gpu::wait_for_grid();
  gpu::launch_dependents();
  Bf16* row = p.qkv.at(h.token, h.head * p.args.head_dim);
  Packed<Bf16> packed[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (pair.valid[i]) packed[i] = load_vector<Bf16>(row + pair.col[i], kVector, true);
  }
  float v[2][kVector];
  unpack(packed[0], v[0]);
  unpack(packed[1], v[1]);
  if constexpr (kNorms != HeadNorms::none) norm_head<kNorms>(v, weights, pair, p, h.normed);
  if (h.rotated && pair.rotated) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) rotate(v[0][i], v[1][i], angles[0][i], angles[1][i]);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!pair.valid[i]) continue;
    if (h.value >= 0) {
      store_kv(cache_at<T>(p, h) + pair.col[i], v[i]);
    } else {
      *reinterpret_cast<uint4*>(row + pair.col[i]) = pack_bf16x8(v[i]);
    }
  }
}

/// The norm of a head that a warp reads value by value; it may leave values as they are.
struct HeadNorm {
  bool normed;
  const float* weights;
  float mean, rest, inverse;

  __device__ __forceinline__ float operator()(const Bf16* head, int i) const {
    const float value = to_float(head[i]);
    return normed ? (value - mean - rest) * inverse * weights[i] : value;
  }
};

__device__ __forceinline__ HeadNorm head_norm(const Bf16* head, const Head& h, const RopeStoreArgs& args, int lane) {
  HeadNorm norm{h.normed, h.weights, 0, 0, 1};
  if (!h.normed) return norm;
  const float n = static_cast<float>(args.head_dim);
  if (args.norm_kind == NormKind::layer) {
    float sum = 0;
    for (int i = lane; i < args.head_dim; i += 32) sum += to_float(head[i]);
    norm.mean = warp_sum(sum) / n;
    sum = 0;
    for (int i = lane; i < args.head_dim; i += 32) sum += to_float(head[i]) - norm.mean;
    norm.rest = warp_sum(sum) / n;
  }
  float squares = 0;
  for (int i = lane; i < args.head_dim; i += 32) {
    const float difference = to_float(head[i]) - norm.mean;
    squares = fmaf(difference, difference, squares);
  }
  const float variance = warp_sum(squares) / n - norm.rest * norm.rest;
  norm.inverse = 1.0f / sqrtf((variance < 0 ? 0 : variance) + args.norm_eps);
  return norm;
}

/// For any head_dim, rotary_dim and alignment: a warp for each head.
template <class T>
__global__ void __launch_bounds__(kThreads) rope_store_values_kernel(RopeStoreParams p) {
  const Head h = head_of(p, kThreads / 32, threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  gpu::wait_for_grid();
  gpu::launch_dependents();
  if (!h.exists) return;
  Bf16* head = p.qkv.at(h.token, h.head * p.args.head_dim);
  const auto put = [&](int i, float value) {
    if (h.value < 0) {
      head[i] = from_float<Bf16>(value);
    } else {
      cache_at<T>(p, h)[i] = from_float<T>(value);
    }
  };
  const HeadNorm norm = head_norm(head, h, p.args, lane);
  const int half = h.rotated ? p.args.rotary_dim / 2 : 0;
  for (int i = lane; i < half; i += 32) {
    float low = norm(head, i), high = norm(head, half + i);
    rotate(low, high, h.angles[i], h.angles[half + i]);
    put(i, low);
    put(half + i, high);
  }
  for (int i = 2 * half + lane; i < p.args.head_dim; i += 32) put(i, norm(head, i));
}

/// Lanes for the pairs of a head as a power of two, as its logarithm; above 5 for more than a warp.
int lane_shift_of(const RopeStoreArgs& args) {
  const int64_t pairs = args.rotary_dim / 2 / kVector + divide_up(args.head_dim - args.rotary_dim, 2 * kVector);
  int shift = 0;
  while ((1 << shift) < pairs) ++shift;
  return shift;
}

bool fits_vectors(const RopeStoreParams& p, const Tensor& qkv) {
  const RopeStoreArgs& args = p.args;
  return rows_are_aligned(qkv) && is_aligned(p.kv) && is_aligned(args.cos_sin) && is_aligned(args.q_norm) &&
         is_aligned(args.k_norm) && args.head_dim % kVector == 0 && args.rotary_dim % (2 * kVector) == 0 && p.lane_shift <= 5;
}

template <class T>
void rope_store_as(const Queue& queue, const Tensor& qkv, RopeStoreParams p) {
  const int64_t heads = p.tokens * (p.args.num_heads + 2 * p.args.kv_heads - p.first_head);
  const bool vectors = fits_vectors(p, qkv);
  const int64_t heads_per_block = vectors ? kThreads >> p.lane_shift : kThreads / 32;
  const LaunchShape shape{static_cast<unsigned>(divide_up(heads, heads_per_block)), kThreads};
  if (!vectors) return launch(queue, shape, "rope_store_kv", rope_store_values_kernel<T>, p);
  if (!p.args.q_norm && !p.args.k_norm) {
    launch(queue, shape, "rope_store_kv", rope_store_kernel<T, HeadNorms::none>, p);
  } else if (p.args.norm_kind == NormKind::rms) {
    launch(queue, shape, "rope_store_kv", rope_store_kernel<T, HeadNorms::rms>, p);
  } else {
    launch(queue, shape, "rope_store_kv", rope_store_kernel<T, HeadNorms::layer>, p);
  }
}

}  // namespace

void rope_store_kv(const Queue& queue, const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch) {
  RopeStoreParams p{};
  p.cache.num_heads = args.num_heads;
  p.cache.kv_heads = args.kv_heads;
  p.cache.head_dim = args.head_dim;
  p.cache.block_shift = std::countr_zero(static_cast<unsigned>(kv.layout.block_size));
  p.kv = kv.data;
  p.qkv = rows_of<Bf16>(qkv);
  p.positions = batch.positions;
  p.slots = batch.slots;
  p.args = args;
  p.tokens = qkv.rows();
  p.first_head = args.rotary_dim || args.q_norm ? 0 : args.num_heads;
  p.lane_shift = lane_shift_of(args);
  if (kv.layout.dtype == DType::f16) return rope_store_as<F16>(queue, qkv, p);
  if (kv.layout.dtype == DType::f8_e4m3) return rope_store_as<E4m3>(queue, qkv, p);
  rope_store_as<Bf16>(queue, qkv, p);
}

}  // namespace pagoda::cuda

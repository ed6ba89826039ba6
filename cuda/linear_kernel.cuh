// The matrix product of `linear` and `grouped_linear`, a template over the weight's format and the tile.
// Parallel over tiles of rows and tokens; within a block, groups of warps take the slices of the columns, see linear_tile.h.
// With few tokens bound by the memory: every weight is read once, 2 bytes (q8 1.06, q4 0.63, f8 1, f8_blocks 1.13), for 2 flops
// a token, and a block reads `tokens` rows of x beside its `rows` of the weight. With many tokens bound by mma.sync and by the
// 6 KiB of shared memory that a warp's 32 x 64 x 32 products read. A gated product saves a launch, and of its output [T, 2I] a
// write and a read: 8 I bytes a token, of Llama-3.1-8B with 64 tokens 7.3 MB beside 235 MB of weights.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/linear_ring.cuh"

namespace pagoda::cuda {

/// Tiles of tokens that run beside each other over all rows, before the next ones: what they read stays in L2.
constexpr int kLinearBand = 16;

/// Finds tile number `tile` of all experts' tiles of `tile_tokens` places; none: no tokens. Called by whole warps.
__device__ __forceinline__ void find_expert_tile(const LinearJob& job, int tile, int tile_tokens, LinearWork& work) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int first = 0; first < job.num_experts; first += 32) {
    const int expert = first + lane;
    const int begin = expert < job.num_experts ? job.expert_start[expert] : 0;
    const int end = expert < job.num_experts ? job.expert_start[expert + 1] : 0;
    const int tiles = (end - begin + tile_tokens - 1) / tile_tokens;
    int upto = tiles;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int lower = __shfl_up_sync(~0u, upto, static_cast<unsigned>(offset));
      if (lane >= offset) upto += lower;
    }
    upto += before;
    const unsigned found = __ballot_sync(~0u, upto > tile);
    if (found) {
      const int source = __ffs(static_cast<int>(found)) - 1;
      const int skipped = (tile - __shfl_sync(~0u, upto - tiles, source)) * tile_tokens;
      work.expert = first + source;
      work.token = __shfl_sync(~0u, begin, source) + skipped;
      work.tokens = min(tile_tokens, __shfl_sync(~0u, end, source) - work.token);
      return;
    }
    before = __shfl_sync(~0u, upto, 31);
  }
}

/// The block's part; reads job.expert_start if there are experts.
template <bool kGated>
__device__ __forceinline__ LinearWork find_linear_work(const LinearJob& job, const LinearShape& shape) {
  const int per_band = kLinearBand * job.row_tiles, block = static_cast<int>(blockIdx.x);
  const int band = block / per_band, in_band = block % per_band;
  const int width = min(kLinearBand, job.token_tiles - band * kLinearBand);
  const int token_tile = band * kLinearBand + in_band % width;
  LinearWork work;
  constexpr int kHalves = kGated ? 2 : 1;
  work.row = in_band / width * (shape.rows / kHalves);
  work.rows = min(shape.rows, job.rows - kHalves * work.row) / kHalves;
  if (job.expert_start) {
    find_expert_tile(job, token_tile, shape.tokens, work);
  } else {
    work.token = token_tile * shape.tokens;
    work.tokens = min(shape.tokens, job.num_tokens - work.token);
  }
  return work;
}

/// What a thread has of a tile of sums: tiles of the mma by rows and tokens.
template <MatrixFormat kFormat, LinearTile kTile, bool kGated>
struct LinearSums {
  static constexpr LinearShape kShape = linear_shape(kTile);
  static constexpr int kMTiles = kShape.rows / kShape.warps_m / 16;
  static constexpr int kNTiles = kShape.tokens / kShape.warps_n / 8;
  static constexpr MatrixFormat kOf = kFormat;
  using Ring = LinearRing<kFormat, kTile, kGated>;
  using Rows = WeightRows<kFormat>;

  float v[kMTiles][kNTiles][4];

  /// Calls function(own sum, the same sum of `other`, its number).
  template <class Function>
  __device__ __forceinline__ void for_each(const LinearSums& other, Function&& function) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) function(v[m][n][i], other.v[m][n][i], (m * kNTiles + n) * 4 + i);
      }
    }
  }

  /// The warp's first row and token in the tile.
  __device__ static int first_row() { return warp() / kShape.warps_n * (16 * kMTiles); }
  __device__ static int first_token() { return warp() % kShape.warps_n * (8 * kNTiles); }

  /// Adds the products of a stage's first `chunks` chunks.
  __device__ __forceinline__ void multiply(const unsigned char* stage, int chunks) {
    const unsigned char* const weights = stage + first_row() * kRowBytes;
    const unsigned char* const scales = stage + Ring::kScalesAt + first_row() * kRowScaleBytes;
    const unsigned char* const x = stage + Ring::kXAt + first_token() * 128;
    const int lane_offset = Rows::lane_offset(), x_offset = Rows::x_offset();
#pragma unroll
    for (int chunk = 0; chunk < Ring::kUnit / kLinearChunk; ++chunk) {
      if (chunk > 0 && chunk >= chunks) break;
      Rows rows[kMTiles];
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) {
        rows[m].load(weights + 16 * kRowBytes * m, lane_offset, scales + 16 * kRowScaleBytes * m, chunk);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) multiply_half(rows, x + chunk * Ring::kXChunkBytes, x_offset, half);
    }
  }

 private:
  static constexpr int kRowBytes = Ring::kScalesAt / kShape.rows;
  static constexpr int kRowScaleBytes = (Ring::kXAt - Ring::kScalesAt) / kShape.rows;

  __device__ static int warp() { return static_cast<int>(threadIdx.x) % kShape.group_threads() / 32; }

  /// 32 columns.
  __device__ __forceinline__ void multiply_half(const Rows (&rows)[kMTiles], const unsigned char* x, int x_offset, int half) {
    constexpr int kBlock = kNTiles < 4 ? kNTiles : 4;  // products that depend on each other are kBlock * kMTiles apart
    uint32_t a[2][kMTiles][4];
#pragma unroll
    for (int i = 0; i < 2 * kMTiles; ++i) rows[i % kMTiles].operands(a[i / kMTiles][i % kMTiles], 2 * half + i / kMTiles);
#pragma unroll
    for (int first = 0; first < kNTiles; first += kBlock) {
      uint32_t b[kBlock][4];
#pragma unroll
      for (int n = 0; n < kBlock; ++n) Rows::load_x(b[n], x + 1024 * (first + n), x_offset, half);
#pragma unroll
      for (int i = 0; i < 2 * kBlock * kMTiles; ++i) {
        const int step = i / (kBlock * kMTiles), n = i / kMTiles % kBlock, m = i % kMTiles;
        gpu::mma_bf16(v[m][first + n], a[step][m], b[n][2 * step], b[n][2 * step + 1]);
      }
    }
  }
};

/// Adds the groups' sums, of `num_slices` slices, to the first group's total in order. Called by the whole block.
template <class Sums>
__device__ __forceinline__ void add_groups(Sums& total, Sums& own, float* partials, int group, int num_slices) {
  constexpr int kThreads = Sums::kShape.group_threads(), kCount = Sums::kShape.rows * Sums::kShape.tokens;
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  if (group > 0 && group < num_slices) {
    float* const to = partials + (group - 1) * kCount + thread;
    own.for_each(own, [&](float sum, float, int i) { to[i * kThreads] = sum; });
  }
  __syncthreads();
  if (group > 0) return;
  total.for_each(own, [](float& sum, float first, int) { sum += first; });
  for (int other = 1; other < num_slices; ++other) {
    const float* const from = partials + (other - 1) * kCount + thread;
    total.for_each(own, [&](float& sum, float, int i) { sum += from[i * kThreads]; });
  }
}

/// What a row's sums become: scaled, with the bias.
template <MatrixFormat kFormat>
struct LinearRow {
  float scale = 1, bias = 0;
  bool has_bias;

  /// `row` of all experts'.
  __device__ LinearRow(const LinearJob& job, int64_t row) : has_bias(job.bias) {
    if (kFormat == MatrixFormat::f8) scale = reinterpret_cast<const float*>(job.scales)[row];
    if (job.bias) bias = job.bias[row];
  }
  __device__ float operator()(float sum) const {
    if (kFormat == MatrixFormat::f8) sum *= scale;
    return has_bias ? sum + bias : sum;
  }
};

/// Writes the first group's sums.
template <class Sums>
__device__ __forceinline__ void store_sums(const LinearJob& job, const LinearWork& work, const Sums& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int m = 0; m < 2 * Sums::kMTiles; ++m) {
    const int row = Sums::first_row() + 8 * m + lane / 4;
    if (row >= work.rows) continue;
    const LinearRow<Sums::kOf> finished(job, int64_t{work.expert} * job.rows + work.row + row);
#pragma unroll
    for (int n = 0; n < 2 * Sums::kNTiles; ++n) {
      const int token = Sums::first_token() + n / 2 * 8 + lane % 4 * 2 + n % 2;
      if (token >= work.tokens) continue;
      const float value = finished(total.v[m / 2][n / 2][m % 2 * 2 + n % 2]);
      const int64_t at = (work.token + token) * job.out_stride + work.row + row;
      if (job.out_f32) {
        static_cast<float*>(job.out)[at] = value;
      } else {
        static_cast<Bf16*>(job.out)[at] = from_float<Bf16>(value);
      }
    }
  }
}

/// The same of gate and up, whose rows a lane has 8 apart.
template <Activation kActivation, class Sums>
__device__ __forceinline__ void store_gated(const LinearJob& job, const LinearWork& work, const Sums& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto rounded = [](float value) { return to_float(from_float<Bf16>(value)); };
#pragma unroll
  for (int m = 0; m < Sums::kMTiles; ++m) {
    const int row = Sums::first_row() / 2 + 8 * m + lane / 4;
    if (row >= work.rows) continue;
    const int64_t weight_row = int64_t{work.expert} * job.rows + work.row + row;
    const LinearRow<Sums::kOf> gate(job, weight_row), up(job, weight_row + job.rows / 2);
#pragma unroll
    for (int n = 0; n < 2 * Sums::kNTiles; ++n) {
      const int token = Sums::first_token() + n / 2 * 8 + lane % 4 * 2 + n % 2;
      if (token >= work.tokens) continue;
      const float (&sums)[4] = total.v[m][n / 2];
      const float value = gated<kActivation>(rounded(gate(sums[n % 2])), rounded(up(sums[2 + n % 2])));
      static_cast<Bf16*>(job.out)[(work.token + token) * job.out_stride + work.row + row] = from_float<Bf16>(value);
    }
  }
}

template <MatrixFormat kFormat, LinearTile kTile, bool kGated>
__global__ void __launch_bounds__(linear_shape(kTile).threads(), linear_blocks(kFormat, kTile))
    linear_kernel(const LinearJob job) {
  using Sums = LinearSums<kFormat, kTile, kGated>;
  using Ring = LinearRing<kFormat, kTile, kGated>;
  constexpr LinearShape kShape = linear_shape(kTile);
  constexpr int kChunks = Ring::kUnit / kLinearChunk;
  DYNAMIC_SHARED(shared);
  if (job.expert_start) gpu::wait_for_grid();
  const LinearWork work = find_linear_work<kGated>(job, kShape);
  if (work.tokens == 0) return;
  Ring ring(job, work, shared);
  ring.prefetch_weights();
  gpu::wait_for_grid();
  gpu::launch_dependents();
  ring.start();

  const int num_chunks = static_cast<int>(job.stride) / kLinearChunk;
  const auto add_slice = [&](Sums& sums, int slice) {
    for (int unit = slice; unit < ring.num_units(); unit += ring.num_slices()) {
      const unsigned char* stage = ring.next();
      sums.multiply(stage, min(kChunks, num_chunks - unit * kChunks));
    }
  };
  Sums total{};
  if constexpr (kShape.groups == 1) {
    for (int slice = 0; slice < ring.num_slices(); ++slice) {
      Sums sums{};
      add_slice(sums, slice);
      total.for_each(sums, [](float& sum, float next, int) { sum += next; });
    }
  } else {
    Sums sums{};
    if (ring.group() < ring.num_slices()) add_slice(sums, ring.group());
    auto* const partials = reinterpret_cast<float*>(shared + kShape.groups * linear_ring_bytes(kFormat, kTile));
    add_groups(total, sums, partials, ring.group(), ring.num_slices());
  }
  ring.finish();
  if (ring.group() > 0) return;
  if constexpr (!kGated) {
    store_sums(job, work, total);
  } else if (job.activation == Activation::silu) {
    store_gated<Activation::silu>(job, work, total);
  } else {
    store_gated<Activation::gelu_tanh>(job, work, total);
  }
}

template <MatrixFormat kFormat, bool kGated>
void launch_linear_format(const Queue& queue, LinearTile tile, const LinearJob& job) {
  const auto start = [&](auto kernel) {
    const LinearShape shape = linear_shape(tile);
    const dim3 blocks(static_cast<unsigned>(job.row_tiles * job.token_tiles));
    launch(queue, {blocks, static_cast<unsigned>(shape.threads()), linear_shared_bytes(kFormat, tile)}, "linear", kernel, job);
  };
  switch (tile) {
    case LinearTile::r16n8:
      return start(linear_kernel<kFormat, LinearTile::r16n8, kGated>);
    case LinearTile::r32n8:
      return start(linear_kernel<kFormat, LinearTile::r32n8, kGated>);
    case LinearTile::r32n16:
      return start(linear_kernel<kFormat, LinearTile::r32n16, kGated>);
    case LinearTile::r32n32:
      return start(linear_kernel<kFormat, LinearTile::r32n32, kGated>);
    case LinearTile::r64n64:
      return start(linear_kernel<kFormat, LinearTile::r64n64, kGated>);
    case LinearTile::r128n128:
      return start(linear_kernel<kFormat, LinearTile::r128n128, kGated>);
  }
}

}  // namespace pagoda::cuda

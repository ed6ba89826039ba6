// The two products of attention for so few rows that tiles would wait for their copies: over the cache where it lies, one row
// after the other, in the chains of fused multiply-adds that a tile's product is (amx_tiles.h), and so with the same bits. To
// be called with subnormal numbers flushed, as tiles do.
#pragma once

#include "backend/cpu/attention_blocks.h"

namespace pagoda::cpu {

constexpr int kChainRows = 4;    ///< rows of a call
constexpr int kChainDepth = 32;  ///< products of a tile: dimensions of a key, tokens

/// scores[rows][kAttentionTile] of `vecs` groups of 16 keys, each [head_dim][16], with bf16 numbers as floats in q.
template <class S, class T, int R = kChainRows, int N = 2>
void score_chains(int rows, int vecs, const float* q, int64_t q_stride, const T* const* keys, int head_dim, float* scores) {
  if constexpr (R > 1) {
    if (rows < R) return score_chains<S, T, R - 1, N>(rows, vecs, q, q_stride, keys, head_dim, scores);
  }
  if constexpr (N > 1) {
    if (vecs < N) return score_chains<S, T, R, N - 1>(rows, vecs, q, q_stride, keys, head_dim, scores);
  }
  using V = typename S::Vec;
  V sums[R][N];
  for (auto& row : sums) {
    for (V& sum : row) sum = S::zero();
  }
  for (int begin = 0; begin < head_dim; begin += kChainDepth) {
    V even[R][N], odd[R][N];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) even[r][n] = odd[r][n] = S::zero();
    }
    const int end = begin + kChainDepth < head_dim ? begin + kChainDepth : head_dim;
    for (int d = begin; d < end; d += 2) {
      V first[N], second[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        first[n] = S::load(keys[n] + d * 16);
        second[n] = S::load(keys[n] + d * 16 + 16);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V a = S::set(q[r * q_stride + d]), b = S::set(q[r * q_stride + d + 1]);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          even[r][n] = S::fma(a, first[n], even[r][n]);
          odd[r][n] = S::fma(b, second[n], odd[r][n]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sums[r][n] = S::add(sums[r][n], S::add(even[r][n], odd[r][n]));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) S::store(scores + r * kAttentionTile + n * 16, sums[r][n]);
  }
}

/// acc = acc * correction + weights * values of 16 N columns from `column` on; the weights are bf16 numbers as floats.
template <class S, class T, int R = kChainRows, int N = 2>
void value_chains(int rows, int vecs, const ValueBlock& block, const KvTile<T>& tile, int64_t column) {
  if constexpr (R > 1) {
    if (rows < R) return value_chains<S, T, R - 1, N>(rows, vecs, block, tile, column);
  }
  if constexpr (N > 1) {
    if (vecs < N) return value_chains<S, T, R, N - 1>(rows, vecs, block, tile, column);
  }
  using V = typename S::Vec;
  V acc[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const V correction = S::set(block.correction[r]);
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) acc[r][n] = S::mul(S::load(block.acc + r * block.acc_stride + column + n * 16), correction);
  }
  for (int begin = tile.lo / kChainDepth * kChainDepth; begin < tile.hi; begin += kChainDepth) {
    V sums[2][R][N];  // of even and odd tokens
    for (auto& side : sums) {
      for (auto& row : side) {
        for (V& sum : row) sum = S::zero();
      }
    }
    const auto add = [&](int t, V(&side)[R][N]) __attribute__((always_inline)) {
      const T* value = tile.values[t / 16] + t % 16 * tile.value_stride + column;
      V v[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) v[n] = S::load(value + n * 16);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V weight = S::set(block.weights[r * kAttentionTile + t]);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) side[r][n] = S::fma(weight, v[n], side[r][n]);
      }
    };
    int t = begin > tile.lo ? begin : tile.lo;
    const int end = begin + kChainDepth < tile.hi ? begin + kChainDepth : tile.hi;
    if (t % 2 != 0) add(t++, sums[1]);
    for (; t + 1 < end; t += 2) {
      add(t, sums[0]);
      add(t + 1, sums[1]);
    }
    if (t < end) add(t, sums[0]);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) acc[r][n] = S::add(acc[r][n], S::add(sums[0][r][n], sums[1][r][n]));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) S::store(block.acc + r * block.acc_stride + column + n * 16, acc[r][n]);
  }
}

}  // namespace pagoda::cpu

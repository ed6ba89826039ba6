// The two register-blocked products of attention, written once over the 16-lane type S: scores = q k^T and acc = acc *
// correction + p v. A call handles up to S::kRows rows and S::kVecs registers of columns; the template recursion picks the
// exact size. Every accumulator sums in ascending order, so the blocking leaves no trace in the bits.
#pragma once

#include "backend/cpu/attention_tile.h"

namespace pagoda::cpu {

/// scores[rows][kAttentionTile] of `vecs` groups of 16 keys, each [head_dim][16]. Fetches as much of `ahead`, keys to come or
/// null, as it reads of `keys`.
template <class S, class T, int R = S::kRows, int N = S::kVecs>
void score_block(int rows, int vecs, const float* q, int64_t q_stride, const T* const* keys, const T* const* ahead,
                 int head_dim, float* scores) {
  if constexpr (R > 1) {
    if (rows < R) return score_block<S, T, R - 1, N>(rows, vecs, q, q_stride, keys, ahead, head_dim, scores);
  }
  if constexpr (N > 1) {
    if (vecs < N) return score_block<S, T, R, N - 1>(rows, vecs, q, q_stride, keys, ahead, head_dim, scores);
  }
  using V = typename S::Vec;
  V acc[R][N];
  const T* key[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    key[n] = keys[n];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r][n] = S::zero();
  }
  for (int d = 0; d < head_dim; ++d) {
    V k[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) k[n] = S::load(key[n] + d * 16);
    if (ahead) fetch_groups<N, 16>(ahead, d * 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V a = S::set(q[r * q_stride + d]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = S::fma(a, k[n], acc[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) S::store(scores + r * kAttentionTile + n * 16, acc[r][n]);
  }
}

/// What value_block reads and writes beside the values.
struct ValueBlock {
  const float* weights;     ///< [rows][kAttentionTile]
  const float* correction;  ///< [rows]
  float* acc;               ///< [rows], acc_stride apart
  int64_t acc_stride;
};

/// `vecs` registers of columns, starting at `column`. Fetches as much of `ahead`, a tile to come or null, as it reads of
/// `tile`.
template <class S, class T, int R = S::kRows, int N = S::kVecs>
void value_block(int rows, int vecs, const ValueBlock& block, const KvTile<T>& tile, const KvTile<T>* ahead, int64_t column) {
  if constexpr (R > 1) {
    if (rows < R) return value_block<S, T, R - 1, N>(rows, vecs, block, tile, ahead, column);
  }
  if constexpr (N > 1) {
    if (vecs < N) return value_block<S, T, R, N - 1>(rows, vecs, block, tile, ahead, column);
  }
  using V = typename S::Vec;
  V acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const V correction = S::set(block.correction[r]);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[r][n] = S::mul(S::load(block.acc + r * block.acc_stride + column + n * 16), correction);
  }
  const int64_t stride = tile.value_stride;
  for (int begin = tile.lo; begin < tile.hi;) {
    const int group_end = (begin / 16 + 1) * 16;
    const int end = group_end < tile.hi ? group_end : tile.hi;
    const T* value = tile.values[begin / 16] + begin % 16 * stride + column;
    for (int token = begin; token < end; ++token, value += stride) {
      V v[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) v[n] = S::load(value + n * 16);
      if (ahead) fetch_value<N>(*ahead, token, column);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V weight = S::set(block.weights[r * kAttentionTile + token]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) acc[r][n] = S::fma(weight, v[n], acc[r][n]);
      }
    }
    begin = end;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) S::store(block.acc + r * block.acc_stride + column + n * 16, acc[r][n]);
  }
}

}  // namespace pagoda::cpu

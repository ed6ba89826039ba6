// The two products of attention over a bf16 or i8 cache where the processor multiplies pairs of bf16 numbers (S::kDots):
// queries and weights are rounded to bf16, products are exact and summed in f32, two at a time. Pairs are neighbouring
// dimensions of a key and neighbouring tokens, the first at an even position, of a value.
//
// A tile's elements T are the cache's own uint16_t or int8_t, which are paired in registers, or BfPair: a copy in pairs, for
// many rows. Codes of an i8 cache are exact in bf16; what is rounded with its values is the weight times the scale.
#pragma once

#include "backend/cpu/attention_blocks.h"

namespace pagoda::cpu {

/// Two bf16 numbers that are multiplied with two others and summed.
struct BfPair {
  uint16_t first, second;
};

/// Pair `i` of the dimensions of a group's 16 keys.
template <class S, class T>
[[gnu::always_inline]] inline typename S::Pairs key_pairs(const T* keys, int i) {
  return S::interleave(keys + i * 32, keys + i * 32 + 16);
}
template <class S>
[[gnu::always_inline]] inline typename S::Pairs key_pairs(const BfPair* keys, int i) {
  return S::load_pairs(keys + i * 16);
}

/// Sixteen columns of the values of tokens t and t + 1 of a tile, t even; a token outside of the tile counts as zero.
template <class S, class T>
[[gnu::always_inline]] inline typename S::Pairs value_pairs(const KvTile<T>& tile, int t, int64_t column) {
  const T* at = tile.values[t / 16] + t % 16 * tile.value_stride + column;
  if (t >= tile.lo && t + 1 < tile.hi) return S::interleave(at, at + tile.value_stride);
  return S::interleave_some(t >= tile.lo ? at : nullptr, t + 1 < tile.hi ? at + tile.value_stride : nullptr, 16);
}
template <class S>
[[gnu::always_inline]] inline typename S::Pairs value_pairs(const KvTile<BfPair>& tile, int t, int64_t column) {
  return S::load_pairs(tile.values[t / 16] + t % 16 / 2 * tile.value_stride + column);
}

/// As score_block, from bf16 queries: head_dim is even or the last key pair's second element zero.
template <class S, class T, int R = S::kRows, int N = S::kVecs>
void score_dots(int rows, int vecs, const uint16_t* q, int64_t q_stride, const T* const* keys, const T* const* ahead,
                int head_dim, float* scores) {
  if constexpr (R > 1) {
    if (rows < R) return score_dots<S, T, R - 1, N>(rows, vecs, q, q_stride, keys, ahead, head_dim, scores);
  }
  if constexpr (N > 1) {
    if (vecs < N) return score_dots<S, T, R, N - 1>(rows, vecs, q, q_stride, keys, ahead, head_dim, scores);
  }
  typename S::Vec acc[R][N];
  const T* key[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    key[n] = keys[n];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r][n] = S::zero();
  }
  for (int i = 0; i < (head_dim + 1) / 2; ++i) {
    typename S::Pairs k[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) k[n] = key_pairs<S>(key[n], i);
    if (ahead) fetch_groups<N, 32>(ahead, i * 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename S::Pairs a = S::set_pair(q + r * q_stride + 2 * i);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = S::dot(a, k[n], acc[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) S::store(scores + r * kAttentionTile + n * 16, acc[r][n]);
  }
}

/// As value_block; the weights of a row are bf16 numbers from the row's place on.
template <class S, class T, int R = S::kRows, int N = S::kVecs>
void value_dots(int rows, int vecs, const ValueBlock& block, const KvTile<T>& tile, const KvTile<T>* ahead, int64_t column) {
  if constexpr (R > 1) {
    if (rows < R) return value_dots<S, T, R - 1, N>(rows, vecs, block, tile, ahead, column);
  }
  if constexpr (N > 1) {
    if (vecs < N) return value_dots<S, T, R, N - 1>(rows, vecs, block, tile, ahead, column);
  }
  typename S::Vec acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const typename S::Vec correction = S::set(block.correction[r]);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[r][n] = S::mul(S::load(block.acc + r * block.acc_stride + column + n * 16), correction);
  }
  const uint16_t* weights = reinterpret_cast<const uint16_t*>(block.weights);
  for (int t = tile.lo & ~1; t < tile.hi; t += 2) {
    typename S::Pairs v[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) v[n] = value_pairs<S>(tile, t, column + n * 16);
    if (ahead) {
      fetch_value<N>(*ahead, t, column);
      fetch_value<N>(*ahead, t + 1, column);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename S::Pairs weight = S::set_pair(weights + r * 2 * kAttentionTile + t);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = S::dot(weight, v[n], acc[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) S::store(block.acc + r * block.acc_stride + column + n * 16, acc[r][n]);
  }
}

/// Where a copy in pairs goes: keys [4][pairs][16], values [32][value_stride].
struct PairedTile {
  BfPair *keys, *values;
  int pairs;  ///< at least ceil(head_dim / 2)
  int64_t value_stride;

  KvTile<BfPair> view(int lo, int hi) const {
    KvTile<BfPair> tile;
    tile.value_stride = value_stride, tile.lo = lo, tile.hi = hi;
    for (int g = 0; g < kTileGroups; ++g) tile.keys[g] = keys + g * 16 * pairs, tile.values[g] = values + g * 8 * value_stride;
    return tile;
  }
};

/// Copies the keys of tokens [lo, hi); lanes outside the range keep what they hold.
template <class S, class T>
void copy_key_pairs(const TileSource& source, int lo, int hi, const PairedTile& copy) {
  const int head_dim = source.kv->head_dim, group = source.kv->group;
  const T* cache = reinterpret_cast<const T*>(source.kv->data);
  for (int token = lo / group * group; token < hi; token += group) {
    const T* from = cache + source.kv->key_offset(source.block(token), source.kv_head, source.offset(token));
    BfPair* to = copy.keys + token / 16 * 16 * copy.pairs + token % 16;
    int d = 0;
    for (; group == 16 && d + 1 < head_dim; d += 2)
      S::store_pairs(to + d * 8, S::interleave(from + d * 16, from + d * 16 + 16));
    for (; d < head_dim; d += 2) {
      const T* second = d + 1 < head_dim ? from + (d + 1) * group : nullptr;
      S::store_pairs(to + d / 2 * 16, S::interleave_some(from + d * group, second, group), group);
    }
  }
}

/// Copies the values of tokens [lo, hi); the columns past head_dim, and the token that shares a pair with an outermost one, are
/// zero.
template <class S, class T>
void copy_value_pairs(const TileSource& source, int lo, int hi, const PairedTile& copy) {
  const int head_dim = source.kv->head_dim;
  const T* cache = reinterpret_cast<const T*>(source.kv->data);
  const auto value = [&](int token) {
    return cache + source.kv->value_offset(source.block(token), source.kv_head, source.offset(token));
  };
  for (int t = lo & ~1; t < hi; t += 2) {
    const T* first = t >= lo ? value(t) : nullptr;
    const T* second = t + 1 < hi ? value(t + 1) : nullptr;
    BfPair* to = copy.values + t / 2 * copy.value_stride;
    int d = 0;
    for (; first && second && d + 16 <= head_dim; d += 16) S::store_pairs(to + d, S::interleave(first + d, second + d));
    for (; d < head_dim; d += 16) {
      const int lanes = head_dim - d < 16 ? head_dim - d : 16;
      S::store_pairs(to + d, S::interleave_some(first ? first + d : first, second ? second + d : second, lanes), 16);
    }
  }
}

/// A copy in pairs of the tile's share of positions [lo, hi).
template <class S, class T>
KvTile<BfPair> paired_tile(const TileSource& source, int64_t lo, int64_t hi, const PairedTile& copy) {
  const int begin = source.clip(lo), end = source.clip(hi);
  copy_key_pairs<S, T>(source, begin, end, copy);
  copy_value_pairs<S, T>(source, begin, end, copy);
  return copy.view(begin, end);
}

}  // namespace pagoda::cpu

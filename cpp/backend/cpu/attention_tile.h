// Sixty-four consecutive keys and values of one sequence and KV head, as the attention kernels read them: four groups of 16
// tokens. A tile either points into the KV blocks or, when many query rows share it, holds a float copy in scratch.
// The numbers of an i8 cache are codes, in copies too: their scales (TileScales) are taken into the scores and the weights.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

namespace pagoda::cpu {

constexpr int kTileGroups = kAttentionTile / 16;

/// Keys as [head_dim][16] per group, values as rows of `value_stride`, of tokens [lo, hi). Groups outside that range are not
/// set.
template <class T>
struct KvTile {
  const T* keys[kTileGroups];
  const T* values[kTileGroups];
  int64_t value_stride;
  int lo, hi;
};

/// Asks for the 16 * head_dim elements of each of a tile's groups, for the second-level cache: the first has no room for two
/// tiles.
template <class T>
[[gnu::always_inline]] inline void prefetch_groups(const T* const* groups, const KvTile<T>& tile, int head_dim) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  for (int g = tile.lo / 16; g * 16 < tile.hi; ++g) {
    for (int i = 0; i < 16 * head_dim; i += kLine) __builtin_prefetch(groups[g] + i, 0, 2);
  }
}

/// Asks for the line of each of kGroups groups that begins at element `at`, a multiple of kStep; for nothing if none does.
template <int kGroups, int kStep, class T>
[[gnu::always_inline]] inline void fetch_groups(const T* const* groups, int at) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  if (kStep < kLine && at % kLine != 0) return;
#pragma GCC unroll 8
  for (int n = 0; n < kGroups; ++n) __builtin_prefetch(groups[n] + at, 0, 2);
}

/// Asks for 16 * kVecs columns of a token's value.
template <int kVecs, class T>
[[gnu::always_inline]] inline void fetch_value(const KvTile<T>& tile, int token, int64_t column) {
  const T* value = tile.values[token / 16] + token % 16 * tile.value_stride + column;
#pragma GCC unroll 8
  for (int d = 0; d < kVecs * 16; d += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(value + d, 0, 2);
}

/// `ahead` with the groups that it lacks taken from `tile`, which has all: a fetch of these finds them in the cache.
template <class T>
[[gnu::always_inline]] inline KvTile<T> filled_up(KvTile<T> ahead, const KvTile<T>& tile) {
  for (int g = 0; g < kTileGroups; ++g) {
    if (ahead.lo < g * 16 + 16 && ahead.hi > g * 16) continue;
    ahead.keys[g] = tile.keys[g], ahead.values[g] = tile.values[g];
  }
  return ahead;
}

/// Where to find a sequence's tokens.
struct TileSource {
  const KvPlace* kv;
  const int32_t* blocks;  ///< the sequence's row of the block table
  int kv_head;
  int64_t begin;  ///< position of the tile's first token, a multiple of kAttentionTile

  [[gnu::always_inline]] int64_t block(int64_t token) const { return blocks[(begin + token) >> kv->block_shift]; }
  [[gnu::always_inline]] int offset(int64_t token) const { return static_cast<int>(begin + token) & (kv->block_size - 1); }
  /// A position as a token of the tile, at most its end.
  [[gnu::always_inline]] int clip(int64_t position) const {
    return position <= begin ? 0 : position - begin < kAttentionTile ? static_cast<int>(position - begin) : kAttentionTile;
  }
};

/// Points into the blocks for the tile's share of positions [lo, hi); empty if there is none. Needs block_size >= 16.
template <class T>
[[gnu::always_inline]] inline KvTile<T> block_tile(const TileSource& source, int64_t lo, int64_t hi) {
  KvTile<T> tile{};
  const T* cache = reinterpret_cast<const T*>(source.kv->data);
  tile.value_stride = source.kv->head_dim;
  tile.lo = source.clip(lo), tile.hi = source.clip(hi);
  for (int token = tile.lo / 16 * 16; token < tile.hi; token += 16) {
    const int64_t block = source.block(token);
    tile.keys[token / 16] = cache + source.kv->key_offset(block, source.kv_head, source.offset(token));
    tile.values[token / 16] = cache + source.kv->value_offset(block, source.kv_head, source.offset(token));
  }
  return tile;
}

/// What the codes of a tile of an i8 cache are multiplied with; 0 for the other tokens of its outermost groups of 16.
struct TileScales {
  alignas(64) float keys[kAttentionTile], values[kAttentionTile];
};

/// Calls body(first token, its key's scale in the cache) for each group of tokens that [lo, hi) reaches into.
template <class Body>
[[gnu::always_inline]] inline void for_scales(const TileSource& source, int lo, int hi, Body&& body) {
  const KvPlace& kv = *source.kv;
  for (int token = lo / kv.group * kv.group; token < hi; token += kv.group) {
    body(token, kv.key_scale(source.block(token), source.kv_head, source.offset(token)));
  }
}

/// Reads the scales of the tile's share of positions [lo, hi), and fetches those of `next`, the tile behind it.
template <class S>
void read_scales(const TileSource& source, const TileSource& next, int64_t lo, int64_t hi, TileScales& scales) {
  const int begin = source.clip(lo), end = source.clip(hi), group = source.kv->group;
  const int64_t value_begin = source.kv->value_scale_begin;
  for_scales(source, begin, end, [&](int token, const char* key) __attribute__((always_inline)) {
    if (group == 16) {
      __builtin_memcpy(scales.keys + token, key, 16 * sizeof(float));
      __builtin_memcpy(scales.values + token, key + value_begin, 16 * sizeof(float));
    } else {
      __builtin_memcpy(scales.keys + token, key, group * sizeof(float));
      __builtin_memcpy(scales.values + token, key + value_begin, group * sizeof(float));
    }
  });
  for (int token = begin / 16 * 16; token < begin; ++token) scales.keys[token] = scales.values[token] = 0;
  for (int token = end; token < (end + 15) / 16 * 16; ++token) scales.keys[token] = scales.values[token] = 0;
  for_scales(next, next.clip(lo), next.clip(hi), [&](int, const char* key) __attribute__((always_inline)) {
    __builtin_prefetch(key);
    __builtin_prefetch(key + value_begin);
  });
}

/// Copies the keys of tokens [lo, hi) to keys[group][head_dim][16]; lanes outside the range keep what they hold or get garbage.
template <class S, class T>
void copy_keys(const TileSource& source, int lo, int hi, float* keys) {
  const int head_dim = source.kv->head_dim, group = source.kv->group;
  const T* cache = reinterpret_cast<const T*>(source.kv->data);
  for (int token = lo / group * group; token < hi; token += group) {
    const T* from = cache + source.kv->key_offset(source.block(token), source.kv_head, source.offset(token));
    float* to = keys + token / 16 * 16 * head_dim + token % 16;
    for (int d = 0; d < head_dim; ++d) store_some<S>(to + d * 16, load_some<S>(from + d * group, group), group);
  }
}

/// A float copy of the tile's share of positions [lo, hi): keys [4][head_dim][16], values [64][head_dim rounded up to 16], the
/// padding zero.
template <class S, class T>
KvTile<float> copied_tile(const TileSource& source, int64_t lo, int64_t hi, float* keys, float* values) {
  const int head_dim = source.kv->head_dim;
  const T* cache = reinterpret_cast<const T*>(source.kv->data);
  KvTile<float> tile;
  tile.value_stride = (head_dim + 15) / 16 * 16;
  tile.lo = source.clip(lo), tile.hi = source.clip(hi);
  copy_keys<S, T>(source, tile.lo, tile.hi, keys);
  for (int token = tile.lo; token < tile.hi; ++token) {
    const T* from = cache + source.kv->value_offset(source.block(token), source.kv_head, source.offset(token));
    float* to = values + token * tile.value_stride;
    for_vectors(head_dim,
                [&](int64_t d, int lanes) __attribute__((always_inline)) { S::store(to + d, load_some<S>(from + d, lanes)); });
  }
  for (int g = 0; g < kTileGroups; ++g) {
    tile.keys[g] = keys + g * 16 * head_dim;
    tile.values[g] = values + g * 16 * tile.value_stride;
  }
  return tile;
}

}  // namespace pagoda::cpu

// The two products of attention with tiles of bf16 numbers (S::Tiles, amx_tiles.h), over a copy of the keys and values in pairs
// (attention_dots.h) whose dimensions and tokens come in multiples of 32, with zeros where there are none. A tile of 64 keys
// adds one sum of products to a row's acc, whatever rows share the tile.
#pragma once

#include "backend/cpu/attention_dots.h"

namespace pagoda::cpu {

/// Whether a cache of T is multiplied with S::Tiles.
template <class S, class T>
constexpr bool kUsesTiles = S::kTiles && sizeof(T) <= sizeof(uint16_t);

/// Pairs of dimensions that a copied key has: whole tiles.
constexpr int tile_pairs(int head_dim) { return (head_dim + 31) / 32 * 16; }

inline constexpr int kTileRows = kAttentionRowUnit;
static_assert(kAttentionRows % kTileRows == 0, "a task's scratch has room for whole tiles");

/// One product C = A B of a grid of tiles, or C += A B: A's tile (m, k) is at a + m * a_row + k * a_step, its rows a_stride
/// apart, and so on; C has one tile for each m and n. All in bytes.
struct TileGrid {
  const char* a;
  int64_t a_row, a_step, a_stride;
  const char* b;
  int64_t b_column, b_step, b_stride;
  char* c;
  int64_t c_row, c_column, c_stride;
  int depth;  ///< tiles k
};

/// Tiles n to n + kN of row m, in registers kC and kC + 1.
template <class S, bool kAdds, int kC, int kN>
void multiply_tiles(const TileGrid& grid, int m, int n) {
  using Tiles = typename S::Tiles;
  char* c = grid.c + m * grid.c_row + n * grid.c_column;
  if constexpr (kAdds) {
    Tiles::template load<kC>(c, grid.c_stride);
    if constexpr (kN == 2) Tiles::template load<kC + 1>(c + grid.c_column, grid.c_stride);
  } else {
    Tiles::template zero<kC>();
    Tiles::template zero<kC + 1>();
  }
  const char *a = grid.a + m * grid.a_row, *b = grid.b + n * grid.b_column;
  for (int k = 0; k < grid.depth; ++k, a += grid.a_step, b += grid.b_step) {
    Tiles::template load<4>(a, grid.a_stride);
    Tiles::template load<6>(b, grid.b_stride);
    Tiles::template add_product<kC, 4, 6>();
    if constexpr (kN == 2) {
      Tiles::template load<7>(b + grid.b_column, grid.b_stride);
      Tiles::template add_product<kC + 1, 4, 7>();
    }
  }
  Tiles::template store<kC>(c, grid.c_stride);
  if constexpr (kN == 2) Tiles::template store<kC + 1>(c + grid.c_column, grid.c_stride);
}

/// Tiles [n_begin, n_end) of a task's `rows` rows. Neighbours use registers in turns, as one waits for its store.
template <class S, bool kAdds>
void multiply_grid(const TileGrid& grid, int rows, int n_begin, int n_end) {
  const int m_end = (rows + kTileRows - 1) / kTileRows;
  for (int n = n_begin; n < n_end; n += 2) {
    for (int m = 0; m < m_end; ++m) {
      if (n + 1 == n_end) {
        m % 2 == 0 ? multiply_tiles<S, kAdds, 0, 1>(grid, m, n) : multiply_tiles<S, kAdds, 2, 1>(grid, m, n);
      } else {
        m % 2 == 0 ? multiply_tiles<S, kAdds, 0, 2>(grid, m, n) : multiply_tiles<S, kAdds, 2, 2>(grid, m, n);
      }
    }
  }
}

/// Sixteen rows of tiles, or all there are.
template <class S>
void configure_tiles(int rows) {
  const auto count = static_cast<uint8_t>(rows < kTileRows ? rows : kTileRows);
  S::Tiles::configure({count, count, count, count, count, count, 16, 16});
}

/// scores[rows][kAttentionTile] of the groups [first, last) of 16 keys; up to 15 rows more are written.
template <class S>
void score_tiles(int rows, const uint16_t* q, int64_t q_stride, const KvTile<BfPair>& tile, int head_dim, float* scores,
                 int first, int last) {
  const int pairs = tile_pairs(head_dim);
  TileGrid grid{};
  grid.a = reinterpret_cast<const char*>(q), grid.a_stride = q_stride * int64_t{sizeof(uint16_t)};
  grid.a_row = kTileRows * grid.a_stride, grid.a_step = 64;
  grid.b = reinterpret_cast<const char*>(tile.keys[0]), grid.b_stride = 64;
  grid.b_column = pairs * int64_t{64}, grid.b_step = 16 * grid.b_stride;
  grid.c = reinterpret_cast<char*>(scores), grid.c_stride = kAttentionTile * int64_t{sizeof(float)};
  grid.c_row = kTileRows * grid.c_stride, grid.c_column = 64;
  grid.depth = pairs / 16;
  multiply_grid<S, false>(grid, rows, first, last);
}

/// acc = acc * correction + weights * values, for tokens in the groups [first, last), with weights of zero for the others of
/// their 32 tokens; up to 15 rows more are written.
template <class S>
void value_tiles(int rows, const ValueBlock& block, const KvTile<BfPair>& tile, int first, int last) {
  for (int r = 0; r < rows; ++r) {
    if (block.correction[r] == 1.0f) continue;
    const typename S::Vec correction = S::set(block.correction[r]);
    float* acc = block.acc + r * block.acc_stride;
    for (int64_t d = 0; d < tile.value_stride; d += 16) S::store(acc + d, S::mul(S::load(acc + d), correction));
  }
  const uint16_t* weights = reinterpret_cast<const uint16_t*>(block.weights);
  const int chunk = first / 2, columns = static_cast<int>(tile.value_stride / 16);
  TileGrid grid{};
  grid.a = reinterpret_cast<const char*>(weights + chunk * 32), grid.a_stride = kAttentionTile * int64_t{sizeof(float)};
  grid.a_row = kTileRows * grid.a_stride, grid.a_step = 64;
  grid.b_stride = tile.value_stride * int64_t{sizeof(BfPair)};
  grid.b_column = 64, grid.b_step = 16 * grid.b_stride;
  grid.b = reinterpret_cast<const char*>(tile.values[0]) + chunk * grid.b_step;
  grid.c = reinterpret_cast<char*>(block.acc), grid.c_stride = block.acc_stride * int64_t{sizeof(float)};
  grid.c_row = kTileRows * grid.c_stride, grid.c_column = 64;
  grid.depth = (last + 1) / 2 - chunk;
  multiply_grid<S, true>(grid, rows, 0, columns);
}

/// As copy_key_pairs, with zeros for the dimensions past head_dim.
template <class S, class T>
void copy_keys_for_tiles(const TileSource& source, int lo, int hi, const PairedTile& copy) {
  copy_key_pairs<S, T>(source, lo, hi, copy);
  const int copied = (source.kv->head_dim + 1) / 2;
  for (int g = lo / 16; copied < copy.pairs && g * 16 < hi; ++g) {
    BfPair* rest = copy.keys + (g * copy.pairs + copied) * 16;
    __builtin_memset(rest, 0, static_cast<size_t>(copy.pairs - copied) * 16 * sizeof(BfPair));
  }
}

/// As copy_value_pairs, with zeros for the tokens that share 32 with one of [lo, hi).
template <class S, class T>
void copy_values_for_tiles(const TileSource& source, int lo, int hi, const PairedTile& copy) {
  copy_value_pairs<S, T>(source, lo, hi, copy);
  const auto clear = [&](int begin, int end) {
    const int64_t count = begin < end ? (end - begin) * copy.value_stride : 0;
    __builtin_memset(copy.values + begin * copy.value_stride, 0, static_cast<size_t>(count) * sizeof(BfPair));
  };
  clear(lo / 32 * 16, lo / 2);
  clear((hi + 1) / 2, (hi + 31) / 32 * 16);
}

}  // namespace pagoda::cpu

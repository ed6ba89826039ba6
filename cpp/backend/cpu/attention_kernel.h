// Attention of a tile of query rows over one KV head, written once over the 16-lane type S.
// Keys are visited in tiles of 64 aligned to position 0: scores = q k^T, online softmax, acc = acc * correction + p v. Every
// 256 keys the state (acc, sums, maximum) is merged into the row's total, so that partitions may also run as tasks of their own
// with the same bits.
//
// Bitwise contract: a row's sums run over d and over keys in ascending order in one chain per output element, over a bf16 or i8
// cache with S::kDots in pairs (attention_dots.h), with S::kTiles in the order of the tiles (attention_tiles.h). Keys that a
// row does not see have weight 0 and add exactly nothing, hence the result does not depend on which rows share the tile. Bound:
// decode by reading the KV blocks once (2 * head_dim elements per key for the whole group), prefill by FMA or dot products, 4 *
// head_dim flops per row and key, with the exponentials on top.
#pragma once

#include "backend/cpu/attention_blocks.h"
#include "backend/cpu/attention_chains.h"
#include "backend/cpu/attention_dots.h"
#include "backend/cpu/attention_softmax.h"
#include "backend/cpu/attention_tiles.h"

namespace pagoda::cpu {

/// Adds a tile that begins at position `begin` to the rows' states in run.part, and fetches `next` meanwhile: evenly over the
/// products of the first rows if the tile is whole, as the memory would idle behind a burst.
template <class S, class T>
void attend_tile(AttentionRun& run, const KvTile<T>& tile, const KvTile<T>& next, int64_t begin) {
  const int first = tile.lo / 16, last = (tile.hi + 15) / 16;
  const int head_dim = run.job->args.head_dim;
  const bool whole = last - first == kTileGroups && next.lo < next.hi;
  const KvTile<T> ahead = whole ? filled_up(next, tile) : next;
  if (!whole) prefetch_groups(next.keys, next, head_dim);
  for (int r = 0; r < run.rows; r += S::kRows) {
    const int rows = run.rows - r < S::kRows ? run.rows - r : S::kRows;
    for (int g = first; g < last; g += S::kVecs) {
      const int vecs = last - g < S::kVecs ? last - g : S::kVecs;
      const float* q = run.q + r * run.padded;
      float* scores = run.scores + r * kAttentionTile + g * 16;
      const T* const* fetched = whole && r == 0 ? ahead.keys + g : nullptr;
      if constexpr (kUsesDots<S, T>) {
        score_dots<S, T>(rows, vecs, reinterpret_cast<const uint16_t*>(q), 2 * run.padded, tile.keys + g, fetched, head_dim,
                         scores);
      } else {
        score_block<S, T>(rows, vecs, q, run.padded, tile.keys + g, fetched, head_dim, scores);
      }
    }
  }
  softmax_tile<S, kUsesDots<S, T> ? WeightForm::pairs : WeightForm::floats>(run, first, last, begin, tile.lo, tile.hi);
  if (!whole) prefetch_groups(next.values, next, head_dim);
  const int columns = static_cast<int>(run.padded / 16);
  for (int r = 0; r < run.rows; r += S::kRows) {
    const int rows = run.rows - r < S::kRows ? run.rows - r : S::kRows;
    const ValueBlock block{run.scores + r * kAttentionTile, run.correction + r, run.part + r * run.state, run.state};
    const KvTile<T>* fetched = whole && r == 0 ? &ahead : nullptr;
    for (int c = 0; c < columns; c += S::kVecs) {
      const int vecs = columns - c < S::kVecs ? columns - c : S::kVecs;
      if constexpr (kUsesDots<S, T>) {
        value_dots<S, T>(rows, vecs, block, tile, fetched, c * 16);
      } else {
        value_block<S, T>(rows, vecs, block, tile, fetched, c * 16);
      }
    }
  }
}

/// Adds the tiles that hold positions [lo, hi) to the rows' states in run.part, with tiles. A copy that was only just stored
/// has to reach the cache before a tile of it can be loaded: keys are copied before the softmax of the tile before them, values
/// behind it, also those of the partition that follows; `first_part` finds none copied.
template <class S, class T>
void attend_tiles(AttentionRun& run, const int32_t* blocks, int64_t lo, int64_t hi, bool first_part) {
  const KvPlace& kv = run.job->kv;
  const int64_t last_hi = run.hi[run.rows - 1], parts_end = static_cast<int64_t>(run.task->part_end) * kAttentionPartition;
  const int64_t copied_hi = last_hi < parts_end ? last_hi : parts_end;
  const PairedTile copy{reinterpret_cast<BfPair*>(run.keys), reinterpret_cast<BfPair*>(run.values), tile_pairs(kv.head_dim),
                        run.padded};
  const auto source_at = [&](int64_t begin) { return TileSource{&kv, blocks, run.task->kv_head, begin}; };
  int64_t begin = lo / kAttentionTile * kAttentionTile;
  TileSource source = source_at(begin);
  if (first_part) {
    copy_keys_for_tiles<S, T>(source, source.clip(lo), source.clip(hi), copy);
    copy_values_for_tiles<S, T>(source, source.clip(lo), source.clip(hi), copy);
  }
  for (; begin < hi; begin += kAttentionTile) {
    const TileSource next = source_at(begin + kAttentionTile);
    const KvTile<BfPair> tile = copy.view(source.clip(lo), source.clip(hi));
    const int first = tile.lo / 16, last = (tile.hi + 15) / 16;
    if (run.scaled) read_scales<S>(source, next, lo, hi, run.scales);
    score_tiles<S>(run.rows, reinterpret_cast<const uint16_t*>(run.q), 2 * run.padded, tile, kv.head_dim, run.scores, first,
                   last);
    copy_keys_for_tiles<S, T>(next, next.clip(lo), next.clip(copied_hi), copy);
    softmax_tile<S, WeightForm::tiles>(run, first, last, begin, tile.lo, tile.hi);
    value_tiles<S>(run.rows, {run.scores, run.correction, run.part, run.state}, tile, first, last);
    copy_values_for_tiles<S, T>(next, next.clip(lo), next.clip(copied_hi), copy);
    source = next;
  }
}

/// The same for few rows, in chains over the cache where it lies.
template <class S, class T>
void attend_chains(AttentionRun& run, const int32_t* blocks, int64_t lo, int64_t hi) {
  const KvPlace& kv = run.job->kv;
  const auto for_rows = [&](const auto& body) {
    const auto before = S::flush_subnormals();
    for (int r = 0; r < run.rows; r += kChainRows) body(r, run.rows - r < kChainRows ? run.rows - r : kChainRows);
    S::restore_floats(before);
  };
  for (int64_t begin = lo / kAttentionTile * kAttentionTile; begin < hi; begin += kAttentionTile) {
    const TileSource source{&kv, blocks, run.task->kv_head, begin},
        next{&kv, blocks, run.task->kv_head, begin + kAttentionTile};
    if (run.scaled) read_scales<S>(source, next, lo, hi, run.scales);
    const KvTile<T> tile = block_tile<T>(source, lo, hi), ahead = tile_ahead<S, T>(run, blocks, begin);
    const int first = tile.lo / 16, last = (tile.hi + 15) / 16;
    prefetch_groups(ahead.keys, ahead, kv.head_dim);
    for_rows([&](int r, int rows) {
      for (int g = first; g < last; g += 2) {
        score_chains<S, T>(rows, last - g < 2 ? 1 : 2, run.q + r * run.padded, run.padded, tile.keys + g, kv.head_dim,
                           run.scores + r * kAttentionTile + g * 16);
      }
    });
    softmax_tile<S, WeightForm::rounded>(run, first, last, begin, tile.lo, tile.hi);
    prefetch_groups(ahead.values, ahead, kv.head_dim);
    for_rows([&](int r, int rows) {
      const ValueBlock block{run.scores + r * kAttentionTile, run.correction + r, run.part + r * run.state, run.state};
      for (int64_t column = 0; column < run.padded; column += 32) {
        value_chains<S, T>(rows, run.padded - column < 32 ? 1 : 2, block, tile, column);
      }
    });
  }
}

/// Computes the states of one partition into run.part. T is the cache's element type.
template <class S, class T>
void attend_partition(AttentionRun& run, int part) {
  for (int r = 0; r < run.rows; ++r) reset_state<S>(run.part + r * run.state, run.padded);
  const KvPlace& kv = run.job->kv;
  const int64_t part_begin = static_cast<int64_t>(part) * kAttentionPartition, part_end = part_begin + kAttentionPartition;
  const int64_t lo = run.lo[0] > part_begin ? run.lo[0] : part_begin;
  const int64_t hi = run.hi[run.rows - 1] < part_end ? run.hi[run.rows - 1] : part_end;
  const bool in_place = kv.group == 16 && kv.head_dim % 16 == 0 && (sizeof(T) == sizeof(float) || run.rows <= kCopyRows);
  const int32_t* blocks = run.job->batch.block_table + static_cast<int64_t>(run.task->seq) * run.job->batch.max_blocks;
  if constexpr (kUsesTiles<S, T>) {
    if (run.chains) return attend_chains<S, T>(run, blocks, lo, hi);
    return attend_tiles<S, T>(run, blocks, lo, hi, part == run.task->part_begin);
  }
  for (int64_t begin = lo / kAttentionTile * kAttentionTile; begin < hi; begin += kAttentionTile) {
    const TileSource source{&kv, blocks, run.task->kv_head, begin},
        next{&kv, blocks, run.task->kv_head, begin + kAttentionTile};
    if (run.scaled) read_scales<S>(source, next, lo, hi, run.scales);
    if (in_place) {
      attend_tile<S, T>(run, block_tile<T>(source, lo, hi), tile_ahead<S, T>(run, blocks, begin), begin);
    } else if constexpr (kUsesDots<S, T>) {
      const PairedTile copy{reinterpret_cast<BfPair*>(run.keys), reinterpret_cast<BfPair*>(run.values), (kv.head_dim + 1) / 2,
                            run.padded};
      attend_tile<S, BfPair>(run, paired_tile<S, T>(source, lo, hi, copy), KvTile<BfPair>{}, begin);
    } else {
      attend_tile<S, float>(run, copied_tile<S, T>(source, lo, hi, run.keys, run.values), KvTile<float>{}, begin);
    }
  }
}

/// Merges the states of partition `part` into run.total for the rows that see any of it.
template <class S>
void merge_partition(AttentionRun& run, int part, const float* states) {
  using V = typename S::Vec;
  const int64_t length = run.padded + 16, maximum_at = run.padded + 16;
  for (int r = 0; r < run.rows; ++r) {
    const int first = run.lo[r] / kAttentionPartition, last = (run.hi[r] - 1) / kAttentionPartition;
    if (part < first || part > last) continue;
    const float* from = states + r * run.state;
    float* to = run.total + r * run.state;
    if (part == first) {
      for (int64_t d = 0; d < run.state; d += 16) S::store(to + d, S::load(from + d));
      continue;
    }
    const float maximum = from[maximum_at] > to[maximum_at] ? from[maximum_at] : to[maximum_at];
    const V old_factor = exp<S>(S::set(to[maximum_at] - maximum)), new_factor = exp<S>(S::set(from[maximum_at] - maximum));
    for (int64_t d = 0; d < length; d += 16) {
      S::store(to + d, S::fma(S::load(from + d), new_factor, S::mul(S::load(to + d), old_factor)));
    }
    to[maximum_at] = maximum;
  }
}

/// What a row's acc is multiplied with at the end: 1 / sum of weights. A sink is one more weight, exp(sink - maximum), of a
/// value of 0; maximum and sink may lie so far apart that only the larger one's exponential is finite, so both are taken
/// relative to it.
template <class S>
[[gnu::always_inline]] inline float inverse_weight(const float* sums, const float* sink) {
  const float sum = S::sum(S::load(sums));
  if (!sink) return 1.0f / sum;
  const float maximum = sums[16], larger = maximum > *sink ? maximum : *sink;
  const float kept = S::first_lane(exp<S>(S::set(maximum - larger)));
  return kept / (sum * kept + S::first_lane(exp<S>(S::set(*sink - larger))));
}

/// out = acc / sum of weights. Adding 0 turns a -0 into +0: whether hidden keys were visited must not show.
template <class S>
void finish_rows(const AttentionRun& run) {
  for (int r = 0; r < run.rows; ++r) {
    const RowPlace place = row_place<S>(*run.job, *run.task, r);
    const float* total = run.total + r * run.state;
    float* out = run.job->out + place.token * run.job->out_stride + place.column;
    const float* sinks = run.job->args.sinks;
    const typename S::Vec inverse =
        S::set(inverse_weight<S>(total + run.padded, sinks ? sinks + place.column / run.job->args.head_dim : nullptr));
    for_vectors(run.job->args.head_dim, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      store_some<S>(out + d, S::fma(S::load(total + d), inverse, S::zero()), lanes);
    });
  }
}

template <class S, class T>
void attend_cache(AttentionRun& run) {
  const AttentionTask& task = *run.task;
  load_queries<S, T>(run);
  const bool has_tiles = kUsesTiles<S, T> && !run.chains;
  const bool in_place = task.partial && !has_tiles;  // tiles write more rows than the task has
  if (in_place) run.part = task.partial;
  if constexpr (kUsesTiles<S, T>) {
    if (has_tiles) configure_tiles<S>(run.rows);
  }
  const size_t states_bytes = static_cast<size_t>(run.rows * run.state) * sizeof(float);
  if (task.before) __builtin_memcpy(run.total, task.before, states_bytes);
  for (int part = task.part_begin; part < task.part_end; ++part) {
    attend_partition<S, T>(run, part);
    if (!task.partial) merge_partition<S>(run, part, run.part);
    if (task.partial && !in_place) __builtin_memcpy(task.partial, run.part, states_bytes);
  }
  if constexpr (kUsesTiles<S, T>) {
    if (has_tiles) S::Tiles::release();
  }
  if (task.after) {
    __builtin_memcpy(task.after, run.total, states_bytes);
  } else if (!task.partial) {
    finish_rows<S>(run);
  }
}

template <class S>
void attention_task(const AttentionJob& job, const AttentionTask& task, float* scratch) {
  AttentionRun run;
  begin_run<S>(run, job, task, scratch);
  if (job.kv.dtype == DType::i8) return attend_cache<S, int8_t>(run);
  if (job.kv.dtype == DType::bf16) return attend_cache<S, uint16_t>(run);
  attend_cache<S, float>(run);
}

template <class S>
void attention_merge_task(const AttentionJob& job, const AttentionTask& task, const float* partial, float* scratch) {
  AttentionRun run;
  begin_run<S>(run, job, task, scratch);
  for (int part = task.part_begin; part < task.part_end; ++part) {
    merge_partition<S>(run, part, partial + (part - task.part_begin) * run.rows * run.state);
  }
  finish_rows<S>(run);
}

}  // namespace pagoda::cpu

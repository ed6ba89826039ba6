// Attention of a tile of query rows over one KV head, written once over the 16-lane type S.
// Keys are visited in tiles of 64 aligned to position 0: scores = q k^T, online softmax, acc = acc * correction + p v. Every
// 256 keys the state (acc, sums, maximum) is merged into the row's total, so that partitions may also run as tasks of their own
// with the same bits.
//
// Bitwise contract: a row's sums run over d and over keys in ascending order in one chain per output element, over a bf16 or i8
// cache with S::kDots in pairs (attention_dots.h). Keys that a row does not see have weight 0 and add exactly nothing, hence
// the result does not depend on which rows share the tile. Bound: decode by reading the KV blocks once (2 * head_dim elements
// per key for the whole group), prefill by FMA or dot products, 4 * head_dim flops per row and key, with the exponentials on
// top.
#pragma once

#include "backend/cpu/attention_blocks.h"
#include "backend/cpu/attention_dots.h"
#include "backend/cpu/attention_tile.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

namespace pagoda::cpu {

/// Rows above which a tile that is not f32 is converted once instead of by every block of rows.
constexpr int kCopyRows = 12;

/// Whether tiles of T are multiplied as pairs of bf16 numbers.
template <class S, class T>
constexpr bool kUsesDots = S::kDots && sizeof(T) <= sizeof(uint16_t);
template <class S>
constexpr bool kUsesDots<S, BfPair> = true;

/// One task in flight: its rows and its scratch. Row states are acc[padded], 16 sums of weights, the maximum.
struct AttentionRun {
  const AttentionJob* job;
  const AttentionTask* task;
  int rows;
  int32_t lo[kAttentionRows], hi[kAttentionRows];  ///< row sees positions [lo, hi)
  float* correction;                               ///< [rows], with room for kAttentionRows
  float* q;                                        ///< [rows][padded], scaled; with dots as bf16, 2 * padded apart
  float* scores;                                   ///< [rows][kAttentionTile]; weights after the softmax, with dots as bf16
  float *part, *total;                             ///< [rows] states
  float *keys, *values;                            ///< copied tile
  int64_t padded, state;
  bool scaled;        ///< the cache is i8
  TileScales scales;  ///< of the tile at hand, if scaled
};

/// Token of the batch and column of the head that a row stands for.
struct RowPlace {
  int64_t token, column;
};

template <class S>
[[gnu::always_inline]] inline RowPlace row_place(const AttentionJob& job, const AttentionTask& task, int row) {
  const int group = job.args.num_heads / job.args.kv_heads;
  const int flat = task.row_begin + row;
  const int64_t token = job.batch.query_start[task.seq] + flat / group;
  return {token, (static_cast<int64_t>(task.kv_head) * group + flat % group) * job.args.head_dim};
}

template <class S>
void begin_run(AttentionRun& run, const AttentionJob& job, const AttentionTask& task, float* scratch) {
  run.job = &job;
  run.task = &task;
  run.rows = task.row_end - task.row_begin;
  run.scaled = job.kv.dtype == DType::i8;
  run.padded = (job.args.head_dim + 15) / 16 * 16;
  run.state = run.padded + 32;
  float* next = scratch;
  run.correction = next, next += kAttentionRows;
  run.q = next, next += kAttentionRows * run.padded;
  run.scores = next, next += kAttentionRows * kAttentionTile;
  run.part = next, next += kAttentionRows * run.state;
  run.total = next, next += kAttentionRows * run.state;
  run.keys = next, next += kAttentionTile * run.padded;
  run.values = next;
  for (int r = 0; r < run.rows; ++r) {
    const int32_t position = job.batch.positions[row_place<S>(job, task, r).token];
    run.hi[r] = position + 1;
    run.lo[r] = job.args.window > 0 && position >= job.args.window ? position - job.args.window + 1 : 0;
  }
}

template <class S, class T>
void load_queries(AttentionRun& run) {
  const typename S::Vec scale = S::set(run.job->args.scale);
  for (int r = 0; r < run.rows; ++r) {
    const RowPlace place = row_place<S>(*run.job, *run.task, r);
    const float* q = run.job->q + place.token * run.job->q_stride + place.column;
    for_vectors(run.job->args.head_dim, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      const typename S::Vec scaled = S::mul(load_some<S>(q + d, lanes), scale);
      if constexpr (kUsesDots<S, T>) {
        S::store(reinterpret_cast<uint16_t*>(run.q + r * run.padded) + d, scaled);
      } else {
        S::store(run.q + r * run.padded + d, scaled);
      }
    });
  }
}

template <class S>
[[gnu::always_inline]] inline void reset_state(float* state, int64_t padded) {
  for (int64_t d = 0; d < padded + 16; d += 16) S::store(state + d, S::zero());
  S::store(state + padded + 16, S::set(-__builtin_inff()));
}

/// The tokens of a tile [lo, hi) that a row sees, none if lo >= hi.
struct SeenTokens {
  int lo, hi;
};
template <class S>
[[gnu::always_inline]] inline SeenTokens seen_tokens(const AttentionRun& run, int row, int64_t begin, int lo, int hi) {
  const int64_t row_lo = run.lo[row] - begin, row_hi = run.hi[row] - begin;
  return {row_lo > lo ? static_cast<int>(row_lo) : lo, row_hi < hi ? static_cast<int>(row_hi) : hi};
}

/// Applies the keys' scales (null: none) and the soft cap, hides what the row does not see and returns the row's largest score
/// in the groups [begin, end).
template <class S>
[[gnu::always_inline]] inline float mask_scores(float* scores, const float* scales, int begin, int end, SeenTokens seen,
                                                float soft_cap) {
  using V = typename S::Vec;
  const V hidden = S::set(-__builtin_inff());
  V best = hidden;
  for (int g = begin; g < end; ++g) {
    V s = S::load(scores + g * 16);
    if (scales) s = S::mul(s, S::load(scales + g * 16));
    if (soft_cap > 0) s = S::mul(S::set(soft_cap), tanh<S>(S::div(s, S::set(soft_cap))));
    if (seen.lo > g * 16 || seen.hi < g * 16 + 16) {
      const V token = S::add(S::iota(), S::set(static_cast<float>(g * 16)));
      s = S::select(S::less(token, S::set(static_cast<float>(seen.hi))), s, hidden);
      s = S::select(S::less(token, S::set(static_cast<float>(seen.lo))), hidden, s);
    }
    S::store(scores + g * 16, s);
    best = S::max(s, best);
  }
  return S::max_lane(best);
}

/// Stores the weights of group g of a row in place of its scores, as bf16 with kDots, and returns them as stored.
template <class S, bool kDots>
[[gnu::always_inline]] inline typename S::Vec store_weights(float* scores, int g, typename S::Vec weights) {
  if constexpr (!kDots) {
    S::store(scores + g * 16, weights);
    return weights;
  } else {
    uint16_t* to = reinterpret_cast<uint16_t*>(scores) + g * 16;  // the scores of group g / 2, which are weights already
    S::store(to, weights);
    return S::load(to);
  }
}

/// Moves the rows' maxima in run.part to those of the tile, `best`, where they are larger, and sets run.correction to the
/// factors that the rows' acc and sums have to take.
template <class S>
[[gnu::always_inline]] inline void move_maxima(AttentionRun& run, const float* best) {
  using V = typename S::Vec;
  float* maxima = run.part + run.padded + 16;  // run.state apart
  for (int r = 0; r < run.rows; r += 16) {
    const int lanes = run.rows - r < 16 ? run.rows - r : 16;
    float rows[16] = {};
    for (int i = 0; i < lanes; ++i) rows[i] = maxima[(r + i) * run.state];
    const V old_maxima = S::load(rows), tile_maxima = S::load(best + r);
    const auto moved = S::less(old_maxima, tile_maxima);
    S::store(run.correction + r, S::select(moved, exp<S>(S::sub(old_maxima, tile_maxima)), S::set(1.0f)));
    S::store(rows, S::select(moved, tile_maxima, old_maxima));
    for (int i = 0; i < lanes; ++i) maxima[(r + i) * run.state] = rows[i];
  }
}

/// Turns a row's scores of the groups [begin, end) into weights exp(score - maximum) and adds them to the row's sums; what it
/// leaves is multiplied with the values' scales (null: none).
template <class S, bool kDots>
[[gnu::always_inline]] inline void weigh_scores(float* scores, const float* scales, int begin, int end, float correction,
                                                float* sums) {
  using V = typename S::Vec;
  V sum = S::mul(S::load(sums), S::set(correction));
  const V maximum = S::set(sums[16]);
  for (int g = begin; g < end; ++g) {
    const V below = S::sub(S::load(scores + g * 16), maximum);
    V weight;
    if constexpr (kDots) {
      weight = coarse_exp<S>(below);
    } else {
      weight = exp<S>(below);
    }
    if (scales) {
      sum = S::add(sum, weight);
      store_weights<S, kDots>(scores, g, S::mul(weight, S::load(scales + g * 16)));
    } else {
      sum = S::add(sum, store_weights<S, kDots>(scores, g, weight));
    }
  }
  S::store(sums, sum);
}

/// The online softmax of a tile's groups [first, last), of whose tokens [lo, hi) count. In three passes over the rows, none of
/// which waits for the row before.
template <class S, bool kDots>
void softmax_tile(AttentionRun& run, int first, int last, int64_t begin, int lo, int hi) {
  alignas(64) float best[kAttentionRows];
  for (int r = 0; r < kAttentionRows; ++r) best[r] = -__builtin_inff();
  const float *key_scales = run.scaled ? run.scales.keys : nullptr, *value_scales = run.scaled ? run.scales.values : nullptr;
  for (int r = 0; r < run.rows; ++r) {
    const SeenTokens seen = seen_tokens<S>(run, r, begin, lo, hi);
    float* scores = run.scores + r * kAttentionTile;
    if (seen.lo < seen.hi) best[r] = mask_scores<S>(scores, key_scales, first, last, seen, run.job->args.soft_cap);
  }
  move_maxima<S>(run, best);
  for (int r = 0; r < run.rows; ++r) {
    const SeenTokens seen = seen_tokens<S>(run, r, begin, lo, hi);
    float* scores = run.scores + r * kAttentionTile;
    if (seen.lo < seen.hi) {
      float* sums = run.part + r * run.state + run.padded;
      weigh_scores<S, kDots>(scores, value_scales, first, last, run.correction[r], sums);
    } else {
      for (int g = first; g < last; ++g) store_weights<S, kDots>(scores, g, S::zero());
    }
  }
}

/// Adds a tile that begins at position `begin` to the rows' states in run.part, and fetches `next` meanwhile.
template <class S, class T>
void attend_tile(AttentionRun& run, const KvTile<T>& tile, const KvTile<T>& next, int64_t begin) {
  const int first = tile.lo / 16, last = (tile.hi + 15) / 16;
  const int head_dim = run.job->args.head_dim;
  prefetch_groups(next.keys, next, head_dim);
  for (int r = 0; r < run.rows; r += S::kRows) {
    const int rows = run.rows - r < S::kRows ? run.rows - r : S::kRows;
    for (int g = first; g < last; g += S::kVecs) {
      const int vecs = last - g < S::kVecs ? last - g : S::kVecs;
      const float* q = run.q + r * run.padded;
      float* scores = run.scores + r * kAttentionTile + g * 16;
      if constexpr (kUsesDots<S, T>) {
        score_dots<S, T>(rows, vecs, reinterpret_cast<const uint16_t*>(q), 2 * run.padded, tile.keys + g, head_dim, scores);
      } else {
        score_block<S, T>(rows, vecs, q, run.padded, tile.keys + g, head_dim, scores);
      }
    }
  }
  softmax_tile<S, kUsesDots<S, T>>(run, first, last, begin, tile.lo, tile.hi);
  prefetch_groups(next.values, next, head_dim);
  const int columns = static_cast<int>(run.padded / 16);
  for (int r = 0; r < run.rows; r += S::kRows) {
    const int rows = run.rows - r < S::kRows ? run.rows - r : S::kRows;
    const ValueBlock block{run.scores + r * kAttentionTile, run.correction + r, run.part + r * run.state, run.state};
    for (int c = 0; c < columns; c += S::kVecs) {
      const int vecs = columns - c < S::kVecs ? columns - c : S::kVecs;
      if constexpr (kUsesDots<S, T>) {
        value_dots<S, T>(rows, vecs, block, tile, c * 16);
      } else {
        value_block<S, T>(rows, vecs, block, tile, c * 16);
      }
    }
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
  for (int64_t begin = lo / kAttentionTile * kAttentionTile; begin < hi; begin += kAttentionTile) {
    const TileSource source{&kv, blocks, run.task->kv_head, begin},
        next{&kv, blocks, run.task->kv_head, begin + kAttentionTile};
    if (run.scaled) read_scales<S>(source, next, lo, hi, run.scales);
    if (in_place) {
      attend_tile<S, T>(run, block_tile<T>(source, lo, hi), block_tile<T>(next, lo, hi), begin);
    } else if constexpr (kUsesDots<S, T>) {
      BfPair *keys = reinterpret_cast<BfPair*>(run.keys), *values = reinterpret_cast<BfPair*>(run.values);
      attend_tile<S, BfPair>(run, paired_tile<S, T>(source, lo, hi, keys, values), KvTile<BfPair>{}, begin);
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
  if (task.partial) run.part = task.partial;
  for (int part = task.part_begin; part < task.part_end; ++part) {
    attend_partition<S, T>(run, part);
    if (!task.partial) merge_partition<S>(run, part, run.part);
  }
  if (!task.partial) finish_rows<S>(run);
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

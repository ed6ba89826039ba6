// What an attention task works on: its rows and its scratch.
#pragma once

#include "backend/cpu/attention_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

namespace pagoda::cpu {

/// Rows above which a tile that is not f32 is converted once instead of by every block of rows.
constexpr int kCopyRows = 12;

/// Rows up to which chains take less time than tiles.
constexpr int kMostChainRows = 8;

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
  float* q;                                        ///< [rows][padded], scaled; for dots as bf16, 2 * padded apart
  float* scores;                                   ///< [rows][kAttentionTile]; weights after the softmax, with dots as bf16
  float *part, *total;                             ///< [rows] states
  float *keys, *values;                            ///< copied tile
  int64_t padded, state;
  bool scaled;        ///< the cache is i8
  bool chains;        ///< instead of tiles: the rows are few and the cache can be read where it lies
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
  const int64_t token = task.tokens ? task.tokens[flat / group] : job.batch.query_start[task.seq] + flat / group;
  return {token, (static_cast<int64_t>(task.kv_head) * group + flat % group) * job.args.head_dim};
}

template <class S>
void begin_run(AttentionRun& run, const AttentionJob& job, const AttentionTask& task, float* scratch) {
  run.job = &job;
  run.task = &task;
  run.rows = task.row_end - task.row_begin;
  run.scaled = job.kv.dtype == DType::i8;
  run.padded = (job.args.head_dim + 15) / 16 * 16;
  run.chains = run.rows <= kMostChainRows && job.kv.group == 16 && run.padded == job.args.head_dim;
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
    if constexpr (kUsesTiles<S, T>) {
      if (run.chains) {
        for (int64_t d = 0; d < run.padded; d += 16) {
          S::store(run.q + r * run.padded + d, S::round_to_bf16(S::mul(S::load(q + d), scale)));
        }
        continue;
      }
    }
    for_vectors(run.job->args.head_dim, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      const typename S::Vec scaled = S::mul(load_some<S>(q + d, lanes), scale);
      if constexpr (kUsesDots<S, T>) {
        S::store(reinterpret_cast<uint16_t*>(run.q + r * run.padded) + d, scaled);
      } else {
        S::store(run.q + r * run.padded + d, scaled);
      }
    });
    if constexpr (kUsesTiles<S, T>) {
      uint16_t* row = reinterpret_cast<uint16_t*>(run.q + r * run.padded);
      for (int64_t d = run.job->args.head_dim; d < 2 * tile_pairs(run.job->args.head_dim); ++d) row[d] = 0;
    }
  }
}

/// The tile that is read after the one at `begin`: the task's next one, or the first of what follows the task.
template <class S, class T>
[[gnu::always_inline]] inline KvTile<T> tile_ahead(const AttentionRun& run, const int32_t* blocks, int64_t begin) {
  const AttentionTask& task = *run.task;
  const KvPlace* kv = &run.job->kv;
  const int64_t parts_end = static_cast<int64_t>(task.part_end) * kAttentionPartition, last = run.hi[run.rows - 1];
  const int64_t end = last < parts_end ? last : parts_end;
  begin += kAttentionTile;
  if (begin < end) return block_tile<T>({kv, blocks, task.kv_head, begin}, begin, end);
  const Batch& batch = run.job->batch;
  const int32_t* next = batch.block_table + static_cast<int64_t>(task.ahead.seq) * batch.max_blocks;
  const int64_t first = task.ahead.lo / kAttentionTile * kAttentionTile;
  return block_tile<T>({kv, next, task.ahead.kv_head, first}, task.ahead.lo, task.ahead.hi);
}

template <class S>
[[gnu::always_inline]] inline void reset_state(float* state, int64_t padded) {
  for (int64_t d = 0; d < padded + 16; d += 16) S::store(state + d, S::zero());
  S::store(state + padded + 16, S::set(-__builtin_inff()));
}

}  // namespace pagoda::cpu

// The inner kernels of the CPU operations: one table of functions per instruction set, and the plain structs they take.
// A kernel runs on one thread and does one row, one token or one attention task; CpuBackend spreads these over the threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kv_store_layout.h"

namespace pagoda::cpu {

/// What is the same for every token of a rope_store_kv.
struct RopeStoreJob {
  RopeStoreArgs args;
  KvPlace kv;
  float* qkv = nullptr;  ///< [T, (num_heads + 2 * kv_heads) * head_dim]
  int64_t qkv_stride = 0;
  const int32_t* positions = nullptr;  ///< [T]
  const int32_t* slots = nullptr;      ///< [T]
};

/// What is the same for every task of a paged_attention.
struct AttentionJob {
  AttentionArgs args;
  KvPlace kv;
  const float* q = nullptr;  ///< [T, num_heads * head_dim]
  int64_t q_stride = 0;
  float* out = nullptr;  ///< [T, num_heads * head_dim]
  int64_t out_stride = 0;
  Batch batch;
};

/// Rows of one KV head that read the same keys and values: of one sequence, or of several that share partitions. A row is a
/// query of one head: row r is token r / group, counted from the sequence's first in the batch or along `tokens`, and head r %
/// group of the KV head's group.
struct AttentionTask {
  int32_t seq = 0;                     ///< whose blocks are read
  int32_t row_begin = 0, row_end = 0;  ///< at most kAttentionRows
  int32_t kv_head = 0;
  int32_t part_begin = 0, part_end = 0;  ///< partitions of the context, kAttentionPartition tokens each
  /// Not null: the task covers one partition and stores its rows' softmax states here.
  float* partial = nullptr;
  /// The rows' states over all partitions before part_begin, to go on from; null: there are none.
  const float* before = nullptr;
  /// Not null: the task stores the rows' states over all partitions before part_end here, and does not write `out`.
  float* after = nullptr;
  const int32_t* tokens = nullptr;  ///< of the batch, or null
  /// What the thread is likely to read after the task: positions [lo, hi) of a sequence's KV head.
  struct Ahead {
    int32_t seq, kv_head;
    int64_t lo, hi;
  };
  Ahead ahead{};
};

constexpr int kAttentionMaxHeadDim = 256;
constexpr int kAttentionRows = 96;       ///< query rows of a task, at most
constexpr int kLeastAttentionRows = 48;  ///< that are one task wherever a sequence has as many, and the most of a shared prefix
constexpr int kAttentionRowUnit = 16;    ///< of a sequence's tasks, but for its last: the rows of a tile register
constexpr int kAttentionTile = 64;       ///< keys that are scored at a time, aligned to position 0
constexpr int kAttentionPartition =
    256;  ///< keys whose softmax is summed on its own before it is merged, aligned to position 0

/// Floats of one row's softmax state: the weighted sum of values (head_dim rounded up to 16), 16 partial sums of weights, and
/// the maximum.
constexpr int64_t attention_state_floats(int64_t head_dim) { return (head_dim + 15) / 16 * 16 + 32; }

/// Floats of scratch that a thread needs for attention kernels.
constexpr int64_t attention_scratch_floats(int64_t head_dim) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  return kAttentionRows * (padded + kAttentionTile + 2 * attention_state_floats(head_dim) + 1) + 2 * kAttentionTile * padded;
}

struct Kernels {
  /// out[n] = norm(x); `out` may be `x`.
  void (*norm)(float* out, const float* x, const Norm& norm, int64_t n);
  /// residual += scale * x; out = norm(residual).
  void (*add_norm)(float* out, float* residual, const float* x, float scale, const Norm& norm, int64_t n);
  /// residual[n] += scale * x.
  void (*add)(float* residual, const float* x, float scale, int64_t n);
  /// x[n] = factor * x, then, if cap > 0, cap * tanh(x / cap).
  void (*scale)(float* x, int64_t n, float factor, float cap);
  /// out[n] = activation(gate) * up.
  void (*gated_activation)(float* out, const float* gate, const float* up, int64_t n, Activation activation);
  /// x[n] = activation(x); not clamped_swiglu.
  void (*activation)(float* x, int64_t n, Activation activation);
  /// Norms and rotates token t's q and k in place and stores k and v in its slot.
  void (*rope_store)(const RopeStoreJob& job, int64_t t);
  /// `scratch`: attention_scratch_floats(head_dim), 64-byte aligned.
  void (*attention)(const AttentionJob& job, const AttentionTask& task, float* scratch);
  /// Merges the states of the task's partitions, [part_end - part_begin][rows][attention_state_floats] at `partial`, and writes
  /// `out`.
  void (*attention_merge)(const AttentionJob& job, const AttentionTask& task, const float* partial, float* scratch);
  /// Query rows of a task if that leaves enough tasks for all threads, a multiple of kAttentionRowUnit in [kLeastAttentionRows,
  /// kAttentionRows]. More are worth it where keys and values are copied for each task.
  int attention_rows;
};

/// The table of an instruction set. Calling its functions needs a machine that supports it.
const Kernels& kernels(Isa isa);

}  // namespace pagoda::cpu

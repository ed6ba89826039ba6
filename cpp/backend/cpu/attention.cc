// A task is a tile of rows (queries x heads of a group) of one sequence and one KV head. Tasks start heaviest first. When a few
// queries would leave threads idle, the partitions of the context become tasks too and are merged afterwards in order.
#include "backend/cpu/attention.h"

#include <algorithm>

#include "backend/cpu/shares.h"

namespace pagoda::cpu {
namespace {

constexpr int64_t kMaxSplitTokens = 16;  ///< queries of a step whose context may be split
constexpr int kTasksPerThread = 4;       ///< with fewer tasks than that the context is split

/// Rows of one sequence that run as one task per KV head.
struct Tile {
  int32_t seq;
  int32_t row_begin, row_end;
  int32_t part_begin, part_end;  ///< partitions that some row sees
  int64_t cost;                  ///< rows times keys
};

int64_t max_tiles(int64_t num_tokens, const AttentionArgs& args) {
  return num_tokens * ceil_div(args.num_heads / args.kv_heads, kAttentionRows);
}

size_t tile_bytes(int64_t num_tokens, const AttentionArgs& args) {
  return round_up(static_cast<size_t>(max_tiles(num_tokens, args)) * sizeof(Tile));
}

Tile make_tile(const AttentionJob& job, int seq, int row_begin, int row_end) {
  const int group = job.args.num_heads / job.args.kv_heads;
  const int32_t* positions = job.batch.positions + job.batch.query_start[seq];
  const int64_t hi = positions[(row_end - 1) / group] + 1;
  const int64_t first = positions[row_begin / group];
  const int64_t lo = job.args.window > 0 ? std::max<int64_t>(0, first - job.args.window + 1) : 0;
  return {seq,
          row_begin,
          row_end,
          static_cast<int32_t>(lo / kAttentionPartition),
          static_cast<int32_t>(ceil_div(hi, kAttentionPartition)),
          (row_end - row_begin) * (hi - lo)};
}

/// Fills `tiles`, heaviest first, and returns their number.
int64_t plan_tiles(const AttentionJob& job, Tile* tiles) {
  const int group = job.args.num_heads / job.args.kv_heads;
  int64_t count = 0;
  for (int seq = 0; seq < job.batch.num_seqs; ++seq) {
    const int rows = (job.batch.query_start[seq + 1] - job.batch.query_start[seq]) * group;
    for (int row = 0; row < rows; row += kAttentionRows) {
      tiles[count++] = make_tile(job, seq, row, std::min(row + kAttentionRows, rows));
    }
  }
  std::sort(tiles, tiles + count, [](const Tile& a, const Tile& b) { return a.cost > b.cost; });
  return count;
}

AttentionTask make_task(const Tile& tile, int kv_head) {
  return {tile.seq, tile.row_begin, tile.row_end, kv_head, tile.part_begin, tile.part_end, nullptr};
}

/// Runs every partition of every tile as a task of its own, then merges them. `states` holds [tile][kv_head][partition][row]
/// states.
void run_split(const Kernels& kernels, ThreadPool& pool, const AttentionJob& job, const Tile* tiles, int64_t num_tiles,
               int64_t max_parts, float* states, float* scratch) {
  const int64_t kv_heads = job.args.kv_heads;
  const int64_t state = attention_state_floats(job.args.head_dim);
  const int64_t thread_scratch = attention_scratch_floats(kAttentionMaxHeadDim);
  // A tile's states begin where those of all rows before it in the batch end, whatever the order of the tiles.
  const auto tile_states = [&](const AttentionTask& task) {
    const int group = job.args.num_heads / job.args.kv_heads;
    const int64_t rows_before = int64_t{job.batch.query_start[task.seq]} * group + task.row_begin;
    return states + (rows_before * kv_heads + int64_t{task.kv_head} * (task.row_end - task.row_begin)) * max_parts * state;
  };
  pool.run(num_tiles * kv_heads * max_parts, [&](int64_t index, int thread) {
    const int64_t tile_head = index / max_parts, part = index % max_parts;
    AttentionTask task = make_task(tiles[tile_head / kv_heads], static_cast<int>(tile_head % kv_heads));
    if (part >= task.part_end - task.part_begin) return;
    task.partial = tile_states(task) + part * (task.row_end - task.row_begin) * state;
    task.part_begin += static_cast<int32_t>(part);
    task.part_end = task.part_begin + 1;
    kernels.attention(job, task, scratch + thread * thread_scratch);
  });
  for (int64_t index = 0; index < num_tiles * kv_heads; ++index) {
    const AttentionTask task = make_task(tiles[index / kv_heads], static_cast<int>(index % kv_heads));
    kernels.attention_merge(job, task, tile_states(task), scratch);
  }
}

}  // namespace

size_t attention_workspace(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) {
  const int64_t states = std::min(num_tokens, kMaxSplitTokens) * args.num_heads * ceil_div(max_context, kAttentionPartition);
  return tile_bytes(num_tokens, args) + static_cast<size_t>(states * attention_state_floats(args.head_dim)) * sizeof(float);
}

void paged_attention(const Kernels& kernels, ThreadPool& pool, const AttentionJob& job, void* workspace, float* scratch) {
  Tile* tiles = static_cast<Tile*>(workspace);
  const int64_t num_tiles = plan_tiles(job, tiles);
  const int64_t num_tasks = num_tiles * job.args.kv_heads;
  const int64_t max_parts = ceil_div(job.batch.max_kv_len, kAttentionPartition);
  if (job.batch.num_tokens <= kMaxSplitTokens && max_parts > 1 && pool.num_threads() > 1 &&
      num_tasks < int64_t{kTasksPerThread} * pool.num_threads()) {
    float* states = reinterpret_cast<float*>(static_cast<char*>(workspace) + tile_bytes(job.batch.num_tokens, job.args));
    return run_split(kernels, pool, job, tiles, num_tiles, max_parts, states, scratch);
  }
  const int64_t thread_scratch = attention_scratch_floats(kAttentionMaxHeadDim);
  pool.run(num_tasks, [&](int64_t index, int thread) {
    // Head by head: the keys and values of one fit the second-level cache for longer.
    const AttentionTask task = make_task(tiles[index % num_tiles], static_cast<int>(index / num_tiles));
    kernels.attention(job, task, scratch + thread * thread_scratch);
  });
}

}  // namespace pagoda::cpu

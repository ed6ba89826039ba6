// A task is a tile of rows (queries x heads of a group) of one sequence and one KV head. Tasks start heaviest first. What
// several sequences share at their beginning (attention_prefix.h) is attended to first, by tiles of rows of all of them, from
// whose states each goes on alone. When a few queries would leave threads idle, the partitions of the context become tasks too
// and are merged afterwards in order.
#include "backend/cpu/attention.h"

#include <algorithm>

#include "backend/cpu/attention_prefix.h"
#include "backend/cpu/shares.h"

namespace pagoda::cpu {
namespace {

constexpr int64_t kMaxSplitTokens = 16;  ///< queries of a step whose context may be split
constexpr int kTasksPerThread = 4;       ///< with fewer tasks than that the context is split, or tiles have fewer rows
/// A shared prefix is not cut into tiles for fewer rows than this, or than one token's.
constexpr int64_t kLeastPrefixRows = 6;

/// Rows that run as one task per KV head.
struct Tile {
  int32_t seq;
  int32_t row_begin, row_end;
  int32_t part_begin, part_end;  ///< partitions that some row sees
  int64_t lo, hi;                ///< positions that some row sees, of these partitions
  int32_t state_row;             ///< the tile's first row in the states of shared prefixes; -1: none
  const int32_t* tokens;         ///< of the batch, if the tile is one of a shared prefix
  int64_t cost;                  ///< rows times keys, of a shared prefix rows times partitions
};

int group_of(const AttentionArgs& args) { return args.num_heads / args.kv_heads; }

int64_t max_tiles(int64_t num_tokens, const AttentionArgs& args) {
  return num_tokens * ceil_div(group_of(args), kLeastAttentionRows);
}

size_t tile_bytes(int64_t num_tokens, const AttentionArgs& args) {
  return round_up(static_cast<size_t>(max_tiles(num_tokens, args)) * sizeof(Tile));
}

size_t split_bytes(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) {
  const int64_t states = std::min(num_tokens, kMaxSplitTokens) * args.num_heads * ceil_div(max_context, kAttentionPartition);
  return static_cast<size_t>(states * attention_state_floats(args.head_dim)) * sizeof(float);
}

/// Where the lists of a PrefixPlan and the states [kv_head][rows] of its tokens lie in a workspace.
struct PrefixPlace {
  PrefixPlan plan;
  float* states;
  size_t bytes;

  PrefixPlace(int64_t num_tokens, const AttentionArgs& args, char* at) {
    const auto count = static_cast<size_t>(std::min(num_tokens, kMaxPrefixTokens));
    bytes = 0;
    const auto take = [&](size_t size) {
      char* taken = at ? at + bytes : nullptr;
      bytes += round_up(size);
      return taken;
    };
    plan.prefixes = reinterpret_cast<SharedPrefix*>(take(count * sizeof(SharedPrefix)));
    plan.members = reinterpret_cast<PrefixMember*>(take(count * sizeof(PrefixMember)));
    plan.tokens = reinterpret_cast<int32_t*>(take(count * sizeof(int32_t)));
    const size_t floats = static_cast<size_t>(attention_state_floats(args.head_dim) * args.num_heads);
    states = reinterpret_cast<float*>(take(count * floats * sizeof(float)));
  }
};

bool may_share(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) {
  return num_tokens > 1 && max_context >= kAttentionPartition && args.window == 0;
}

Tile make_tile(const AttentionJob& job, int seq, int row_begin, int row_end) {
  const int32_t* positions = job.batch.positions + job.batch.query_start[seq];
  const int64_t hi = positions[(row_end - 1) / group_of(job.args)] + 1;
  const int64_t first = positions[row_begin / group_of(job.args)];
  const int64_t lo = job.args.window > 0 ? std::max<int64_t>(0, first - job.args.window + 1) : 0;
  return {seq,
          row_begin,
          row_end,
          static_cast<int32_t>(lo / kAttentionPartition),
          static_cast<int32_t>(ceil_div(hi, kAttentionPartition)),
          lo,
          hi,
          -1,
          nullptr,
          (row_end - row_begin) * (hi - lo)};
}

void put_heaviest_first(Tile* tiles, int64_t count) {
  std::sort(tiles, tiles + count, [](const Tile& a, const Tile& b) { return a.cost > b.cost; });
}

/// Rows of a tile, at most: as many as the kernels gain by and leave tasks for all threads.
int tile_rows(const Kernels& kernels, const AttentionJob& job, int num_threads) {
  const int64_t share = int64_t{job.batch.num_tokens} * job.args.num_heads / (kTasksPerThread * num_threads);
  return static_cast<int>(
      std::clamp<int64_t>(share / kAttentionRowUnit * kAttentionRowUnit, kLeastAttentionRows, kernels.attention_rows));
}

/// Fills `tiles` of up to `most_rows` rows with what is left behind the shared prefixes, heaviest first, and returns their
/// number.
int64_t plan_tiles(const AttentionJob& job, const PrefixPlan& plan, int most_rows, Tile* tiles) {
  const int group = group_of(job.args);
  const PrefixMember *member = plan.members, *last = plan.members + plan.num_members;
  int64_t count = 0;
  for (int seq = 0; seq < job.batch.num_seqs; ++seq) {
    const int rows = (job.batch.query_start[seq + 1] - job.batch.query_start[seq]) * group;
    for (int row = 0; row < rows; row += most_rows) {
      Tile& tile = tiles[count++] = make_tile(job, seq, row, std::min(row + most_rows, rows));
      if (member == last || member->seq != seq) continue;
      tile.part_begin = member->parts;  // the only tile of a sequence with so few rows
      tile.lo = int64_t{member->parts} * kAttentionPartition;
      tile.state_row = member->token_begin * group;
      tile.cost = rows * (tile.hi - tile.lo);
      ++member;
    }
  }
  put_heaviest_first(tiles, count);
  return count;
}

/// Fills `tiles` with rows of all sequences that share a prefix: kLeastAttentionRows, or fewer where that would leave threads
/// idle.
int64_t plan_prefix_tiles(const AttentionJob& job, const PrefixPlan& plan, int num_threads, Tile* tiles) {
  const int group = group_of(job.args);
  const int64_t share = int64_t{plan.num_tokens} * job.args.num_heads / (2 * num_threads);
  const int64_t most = std::clamp<int64_t>(share, std::max<int64_t>(kLeastPrefixRows, group), kLeastAttentionRows);
  int64_t count = 0;
  for (const SharedPrefix& prefix : std::span(plan.prefixes, static_cast<size_t>(plan.num_prefixes))) {
    const int64_t rows = int64_t{prefix.token_end - prefix.token_begin} * group;
    const int64_t step = ceil_div(rows, ceil_div(rows, most));
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t end = std::min(row + step, rows);
      tiles[count++] = {prefix.seq,
                        static_cast<int32_t>(row),
                        static_cast<int32_t>(end),
                        0,
                        prefix.parts,
                        0,
                        int64_t{prefix.parts} * kAttentionPartition,
                        static_cast<int32_t>(prefix.token_begin * group + row),
                        plan.tokens + prefix.token_begin,
                        (end - row) * prefix.parts};
    }
  }
  put_heaviest_first(tiles, count);
  return count;
}

AttentionTask make_task(const Tile& tile, int kv_head) {
  return {.seq = tile.seq,
          .row_begin = tile.row_begin,
          .row_end = tile.row_end,
          .kv_head = kv_head,
          .part_begin = tile.part_begin,
          .part_end = tile.part_end,
          .tokens = tile.tokens};
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
    const int64_t rows_before = int64_t{job.batch.query_start[task.seq]} * group_of(job.args) + task.row_begin;
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

/// Runs every tile as a task of its own. `states` holds [kv_head][num_states] states of shared prefixes, to which tiles of such
/// prefixes write and from which the others go on.
void run_tiles(const Kernels& kernels, ThreadPool& pool, const AttentionJob& job, const Tile* tiles, int64_t num_tiles,
               float* states, int64_t num_states, float* scratch) {
  const int64_t thread_scratch = attention_scratch_floats(kAttentionMaxHeadDim);
  const int64_t state = attention_state_floats(job.args.head_dim);
  const int64_t num_tasks = num_tiles * job.args.kv_heads;
  pool.run(num_tasks, [&](int64_t index, int thread) {
    // Head by head: the keys and values of one stay in the second-level cache longer.
    const Tile& tile = tiles[index % num_tiles];
    const int64_t head = index / num_tiles;
    AttentionTask task = make_task(tile, static_cast<int>(head));
    if (const int64_t next = index + pool.num_threads(); next < num_tasks) {
      const Tile& ahead = tiles[next % num_tiles];
      task.ahead = {ahead.seq, static_cast<int32_t>(next / num_tiles), ahead.lo, ahead.hi};
    }
    if (tile.state_row >= 0) {
      float* own = states + (head * num_states + tile.state_row) * state;
      if (tile.tokens)
        task.after = own;
      else
        task.before = own;
    }
    kernels.attention(job, task, scratch + thread * thread_scratch);
  });
}

}  // namespace

size_t attention_workspace(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) {
  size_t states = split_bytes(num_tokens, max_context, args);
  if (may_share(num_tokens, max_context, args)) states = std::max(states, PrefixPlace(num_tokens, args, nullptr).bytes);
  return tile_bytes(num_tokens, args) + states;
}

void paged_attention(const Kernels& kernels, ThreadPool& pool, const AttentionJob& job, void* workspace, float* scratch) {
  const Batch& batch = job.batch;
  Tile* tiles = static_cast<Tile*>(workspace);
  char* states = static_cast<char*>(workspace) + tile_bytes(batch.num_tokens, job.args);
  PrefixPlan none{};
  const int64_t max_parts = ceil_div(batch.max_kv_len, kAttentionPartition);
  const int most_rows = tile_rows(kernels, job, pool.num_threads());
  if (batch.num_tokens <= kMaxSplitTokens && max_parts > 1 && pool.num_threads() > 1) {
    const int64_t num_tiles = plan_tiles(job, none, most_rows, tiles);
    if (num_tiles * job.args.kv_heads < int64_t{kTasksPerThread} * pool.num_threads()) {
      return run_split(kernels, pool, job, tiles, num_tiles, max_parts, reinterpret_cast<float*>(states), scratch);
    }
  }
  if (!may_share(batch.num_tokens, batch.max_kv_len, job.args)) {
    return run_tiles(kernels, pool, job, tiles, plan_tiles(job, none, most_rows, tiles), nullptr, 0, scratch);
  }
  PrefixPlace place(batch.num_tokens, job.args, states);
  plan_prefixes(job, place.plan);
  const int64_t num_states = int64_t{place.plan.num_tokens} * group_of(job.args);
  if (num_states > 0) {
    const int64_t num_tiles = plan_prefix_tiles(job, place.plan, pool.num_threads(), tiles);
    run_tiles(kernels, pool, job, tiles, num_tiles, place.states, num_states, scratch);
  }
  run_tiles(kernels, pool, job, tiles, plan_tiles(job, place.plan, most_rows, tiles), place.states, num_states, scratch);
}

}  // namespace pagoda::cpu

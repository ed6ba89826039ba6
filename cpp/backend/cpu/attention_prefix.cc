// Sequences are put in the order of their block tables, as of words: what two of them share is the least that neighbours
// between them share.
#include "backend/cpu/attention_prefix.h"

#include <algorithm>
#include <cstring>

namespace pagoda::cpu {
namespace {

/// A sequence's blocks, as far as all of its queries see them.
struct Context {
  const int32_t* blocks;
  int64_t tokens;
};

Context context_of(const AttentionJob& job, int32_t seq) {
  const Batch& batch = job.batch;
  return {batch.block_table + int64_t{seq} * batch.max_blocks, int64_t{batch.positions[batch.query_start[seq]]} + 1};
}

int64_t num_blocks(const AttentionJob& job, int64_t tokens) {
  return (tokens + job.batch.block_size - 1) / job.batch.block_size;
}

/// Whole partitions that two contexts begin with.
int32_t shared_parts(const AttentionJob& job, const Context& a, const Context& b) {
  const int64_t tokens = std::min(a.tokens, b.tokens);
  const int64_t same = std::mismatch(a.blocks, a.blocks + num_blocks(job, tokens), b.blocks).first - a.blocks;
  return static_cast<int32_t>(std::min(tokens, same * job.batch.block_size) / kAttentionPartition);
}

/// An order of words: by the first difference, then the shorter one first.
bool comes_before(const AttentionJob& job, const PrefixMember& a, const PrefixMember& b) {
  const Context x = context_of(job, a.seq), y = context_of(job, b.seq);
  const int64_t x_blocks = num_blocks(job, x.tokens), y_blocks = num_blocks(job, y.tokens);
  const auto bytes = static_cast<size_t>(std::min(x_blocks, y_blocks)) * sizeof(int32_t);
  if (const int order = std::memcmp(x.blocks, y.blocks, bytes)) return order < 0;
  return x_blocks != y_blocks ? x_blocks < y_blocks : a.seq < b.seq;
}

/// Lists the sequences that could share something as members of nothing yet.
void list_candidates(const AttentionJob& job, PrefixPlan& plan) {
  const Batch& batch = job.batch;
  const int group = job.args.num_heads / job.args.kv_heads;
  int64_t num_tokens = 0;
  for (int32_t seq = 0; seq < batch.num_seqs; ++seq) {
    const int64_t own = batch.query_start[seq + 1] - batch.query_start[seq];
    if (own == 0 || 2 * own * group > kLeastAttentionRows || num_tokens + own > kMaxPrefixTokens) continue;
    if (context_of(job, seq).tokens < kAttentionPartition) continue;
    num_tokens += own;
    plan.members[plan.num_members++] = {seq, 0, 0};
  }
  std::sort(plan.members, plan.members + plan.num_members,
            [&](const PrefixMember& a, const PrefixMember& b) { return comes_before(job, a, b); });
}

/// A run of candidates that share `parts` partitions, none if it is one alone.
struct Run {
  int32_t end, parts;
};
Run run_from(const AttentionJob& job, const PrefixPlan& plan, int32_t begin) {
  int32_t least = 0, most = 0;
  for (int32_t next = begin + 1; next < plan.num_members; ++next) {
    const int32_t shared =
        shared_parts(job, context_of(job, plan.members[next - 1].seq), context_of(job, plan.members[next].seq));
    if (most > 0 && shared > 2 * least) return {next - 1, next - 1 - begin > 1 ? least : 0};  // leaves the last to the next run
    if (shared == 0 || 2 * shared < most) return {next, least};
    least = least == 0 ? shared : std::min(least, shared);
    most = std::max(most, shared);
  }
  return {plan.num_members, least};
}

/// Makes a prefix of candidates [begin, end), and members of them, kept behind those of the prefixes before.
void add_prefix(const AttentionJob& job, PrefixPlan& plan, int32_t begin, int32_t end, int32_t parts, int32_t& kept) {
  const int32_t token_begin = plan.num_tokens;
  for (int32_t i = begin; i < end; ++i) {
    const int32_t seq = plan.members[i].seq;
    plan.members[kept++] = {seq, parts, plan.num_tokens};
    const int32_t* start = job.batch.query_start + seq;
    for (int32_t token = start[0]; token < start[1]; ++token) plan.tokens[plan.num_tokens++] = token;
  }
  plan.prefixes[plan.num_prefixes++] = {plan.members[kept - 1].seq, parts, token_begin, plan.num_tokens};
}

}  // namespace

void plan_prefixes(const AttentionJob& job, PrefixPlan& plan) {
  plan.num_prefixes = plan.num_members = plan.num_tokens = 0;
  if (job.args.window > 0 || job.batch.max_kv_len < kAttentionPartition) return;
  list_candidates(job, plan);
  int32_t kept = 0;
  for (int32_t begin = 0; begin < plan.num_members;) {
    const Run run = run_from(job, plan, begin);
    if (run.parts > 0) add_prefix(job, plan, begin, run.end, run.parts, kept);
    begin = run.end;
  }
  plan.num_members = kept;
  std::sort(plan.members, plan.members + kept, [](const PrefixMember& a, const PrefixMember& b) { return a.seq < b.seq; });
}

}  // namespace pagoda::cpu

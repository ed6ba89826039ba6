// The order of the host buffer is written once, in batch_at(); filling goes through it too.
#include "engine/batch_builder.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

/// The size that a step of `n` single tokens is filled up to: few sizes, none much larger than needed.
int padded_rows(int n, int64_t most) {
  const int unit = n <= 4 ? 1 : n <= 32 ? 8 : n <= 128 ? 16 : n <= 512 ? 64 : 256;
  const int rows = n == 3 ? 4 : (n + unit - 1) / unit * unit;
  return static_cast<int>(std::min<int64_t>(rows, most));
}

/// The columns of a block table that needs `n`: a power of four.
int padded_blocks(int n, int64_t most) {
  int64_t columns = 1;
  while (columns < n) columns *= 4;
  return static_cast<int>(std::min(columns, most));
}

constexpr int32_t kUnknownToken = -1;

int32_t token_at(const PlannedSeq& planned, int64_t position) {
  if (position >= planned.end) return planned.draft[static_cast<size_t>(position - planned.end)];
  return position < planned.seq->num_tokens() ? planned.seq->tokens[static_cast<size_t>(position)] : kUnknownToken;
}

int32_t* writable(const int32_t* array) { return const_cast<int32_t*>(array); }  // into host_, which is the builder's own

}  // namespace

BatchBuilder::BatchBuilder(const Limits& limits, std::vector<int32_t> eos_tokens, AddSampleRow add_row, bool pads_decode_steps)
    : limits_(limits), eos_tokens_(std::move(eos_tokens)), add_row_(add_row), pads_decode_steps_(pads_decode_steps) {
  samples_.vocab_size = static_cast<int32_t>(limits.vocab_size);
  host_.reserve(limits.batch_bytes() / sizeof(int32_t));
}

void BatchBuilder::build(const StepPlan& plan) {
  measure(plan);
  fill_indices(plan);
  fill_rows(plan);
}

void BatchBuilder::measure(const StepPlan& plan) {
  shape_ = {};
  shape_.num_seqs = static_cast<int>(plan.seqs.size());
  shape_.num_tokens = static_cast<int>(plan.num_tokens);
  shape_.block_size = static_cast<int>(limits_.block_size);
  has_sources_ = false;
  for (const PlannedSeq& planned : plan.seqs) {
    const int64_t end = planned.draft_end();
    const int64_t num_blocks = (end + limits_.block_size - 1) / limits_.block_size;
    shape_.max_blocks = std::max(shape_.max_blocks, static_cast<int>(num_blocks));
    shape_.max_query_len = std::max(shape_.max_query_len, static_cast<int>(end - planned.begin));
    shape_.max_kv_len = std::max(shape_.max_kv_len, static_cast<int>(end));
    shape_.num_logit_rows += static_cast<int>(planned.rows_end - planned.rows_begin + planned.num_draws());
    has_sources_ |= planned.token_source >= 0;
  }
  ensure(shape_.num_logit_rows <= limits_.max_logit_rows(), "a step wants ", shape_.num_logit_rows,
         " rows of logits, planned are ", limits_.max_logit_rows());
  shape_key_ = 0;
  if (pads_decode_steps_ && !plan.wants_hidden && shape_.max_query_len == 1 && shape_.num_logit_rows == shape_.num_seqs) pad();
}

/// All that an operation's launch depends on becomes one of few values, and the same for equal keys.
void BatchBuilder::pad() {
  const int rows = padded_rows(shape_.num_seqs, limits_.max_running());
  shape_.num_seqs = shape_.num_tokens = shape_.num_logit_rows = rows;
  shape_.max_blocks = padded_blocks(shape_.max_blocks, limits_.max_blocks_per_seq());
  shape_.max_kv_len = static_cast<int>(std::min(shape_.max_blocks * limits_.block_size, limits_.max_context()));
  shape_key_ = static_cast<uint64_t>(rows) << 32 | static_cast<uint64_t>(shape_.max_blocks);
}

Batch BatchBuilder::batch_at(const int32_t* base) const {
  Batch batch = shape_;
  const auto take = [&](int64_t count) { return std::exchange(base, base + count); };
  batch.token_ids = take(shape_.num_tokens);
  batch.positions = take(shape_.num_tokens);
  batch.slots = take(shape_.num_tokens);
  batch.query_start = take(shape_.num_seqs + 1);
  batch.kv_len = take(shape_.num_seqs);
  batch.block_table = take(int64_t{shape_.num_seqs} * shape_.max_blocks);
  batch.logit_rows = take(shape_.num_logit_rows);
  if (shape_.num_logit_rows < shape_.num_tokens) {
    batch.logit_positions = take(shape_.num_logit_rows);
    batch.logit_start = take(shape_.num_seqs + 1);
  }
  if (has_sources_) batch.token_sources = take(shape_.num_tokens);  // last: the places of the others do not depend on it
  return batch;
}

void BatchBuilder::fill_indices(const StepPlan& plan) {
  const auto num_tokens = static_cast<size_t>(shape_.num_tokens), num_seqs = static_cast<size_t>(shape_.num_seqs);
  const auto num_rows = static_cast<size_t>(shape_.num_logit_rows);
  host_.resize((has_sources_ ? 4 : 3) * num_tokens + 2 * num_seqs + 1 + num_seqs * static_cast<size_t>(shape_.max_blocks) +
               num_rows + (num_rows < num_tokens ? num_rows + num_seqs + 1 : 0));
  ensure(host_.size() * sizeof(int32_t) <= limits_.batch_bytes(), "a step of ", num_tokens, " tokens and ", num_seqs,
         " sequences is larger than planned");
  const Batch at = batch_at(host_.data());
  int32_t* token_ids = writable(at.token_ids);
  int32_t* positions = writable(at.positions);
  int32_t* slots = writable(at.slots);
  int32_t* logit_rows = writable(at.logit_rows);
  int32_t* sources = writable(at.token_sources);
  if (sources) std::fill_n(sources, num_tokens, -1);
  int32_t token = 0;
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    const PlannedSeq& planned = plan.seqs[i];
    const std::vector<BlockId>& blocks = planned.seq->table.blocks;
    int32_t* row = writable(at.block_table) + i * static_cast<size_t>(shape_.max_blocks);
    std::copy_n(blocks.begin(), std::min(std::ssize(blocks), static_cast<std::ptrdiff_t>(shape_.max_blocks)), row);
    writable(at.query_start)[i] = token;
    writable(at.kv_len)[i] = static_cast<int32_t>(planned.draft_end());
    for (int64_t position = planned.begin; position < planned.draft_end(); ++position, ++token) {
      const int64_t block = position / limits_.block_size, offset = position % limits_.block_size;
      token_ids[token] = token_at(planned, position);
      if (token_ids[token] == kUnknownToken) token_ids[token] = 0, sources[token] = planned.token_source;
      positions[token] = static_cast<int32_t>(position);
      slots[token] = static_cast<int32_t>(blocks[static_cast<size_t>(block)] * limits_.block_size + offset);
      const bool reports = planned.rows_begin <= position && position < planned.rows_end;
      if (reports || (planned.wants_token && position >= planned.end - 1)) *logit_rows++ = token;
    }
  }
  if (shape_key_) fill_padding(token);
  writable(at.query_start)[num_seqs] = shape_.num_tokens;
  if (at.logit_start) fill_selection();
}

/// The arrays that pick the logit rows, from those of all tokens.
void BatchBuilder::fill_selection() {
  const Batch at = batch_at(host_.data());
  int32_t row = 0;
  for (int seq = 0; seq < shape_.num_seqs; ++seq) {
    writable(at.logit_start)[seq] = row;
    for (; row < shape_.num_logit_rows && at.logit_rows[row] < at.query_start[seq + 1]; ++row) {
      writable(at.logit_positions)[row] = at.positions[at.logit_rows[row]];
    }
  }
  writable(at.logit_start)[shape_.num_seqs] = row;
}

/// Rows from `token` on: sequences of one token that see the first key of block 0, whatever it is, store nothing and are read
/// by nobody.
void BatchBuilder::fill_padding(int32_t token) {
  const Batch at = batch_at(host_.data());
  for (; token < shape_.num_tokens; ++token) {
    writable(at.token_ids)[token] = 0;
    writable(at.positions)[token] = 0;
    writable(at.slots)[token] = -1;
    writable(at.query_start)[token] = token;
    writable(at.kv_len)[token] = 1;
    writable(at.block_table)[int64_t{token} * shape_.max_blocks] = 0;
    writable(at.logit_rows)[token] = token;
  }
}

void BatchBuilder::fill_rows(const StepPlan& plan) {
  samples_.clear();
  errors_.resize(plan.seqs.size());
  ended_.assign(plan.seqs.size(), false);
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    const PlannedSeq& planned = plan.seqs[i];
    const Sequence& seq = *planned.seq;
    errors_[i].clear();
    for (int64_t position = planned.rows_begin; position < planned.rows_end; ++position) {
      add_forced_row(samples_, seq.tokens[static_cast<size_t>(position) + 1],
                     static_cast<int32_t>(*seq.params().prompt_logprobs));
    }
    if (planned.wants_token) add_sample(planned, errors_[i]);
  }
}

void BatchBuilder::add_masks(const StepPlan& plan, std::chrono::steady_clock::time_point deadline) {
  size_t row = 0;
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    const PlannedSeq& planned = plan.seqs[i];
    row += static_cast<size_t>(planned.rows_end - planned.rows_begin);
    if (!planned.wants_token) continue;
    SampleRow& draw = samples_.rows[row];
    row += static_cast<size_t>(planned.num_draws());
    if (!planned.seq->mask || !errors_[i].empty()) continue;
    const TokenMask::State state = planned.seq->mask->wait(deadline);
    ended_[i] = state == TokenMask::State::ended;
    if (state == TokenMask::State::failed) errors_[i] = planned.seq->mask->error();
    if (state == TokenMask::State::ready) add_mask(draw, planned.seq->mask->words());
  }
}

/// Allows what the words allow and the row allowed before.
void BatchBuilder::add_mask(SampleRow& row, std::span<const uint32_t> words) {
  if (row.mask < 0) {
    row.mask = static_cast<int32_t>(samples_.masks.size() / words.size());
    samples_.masks.insert(samples_.masks.end(), words.begin(), words.end());
    return;
  }
  uint32_t* own = samples_.masks.data() + static_cast<size_t>(row.mask) * words.size();
  for (size_t i = 0; i < words.size(); ++i) own[i] &= words[i];
}

void BatchBuilder::add_sample(const PlannedSeq& planned, std::string& error) {
  const Sequence& seq = *planned.seq;
  const size_t num_rows = samples_.rows.size(), num_edits = samples_.edits.size(), num_counts = samples_.counts.size(),
               num_mask_words = samples_.masks.size();
  try {
    SampleSource source;
    source.params = &seq.params();
    source.key = seq.key;
    source.tokens = seq.tokens;
    source.num_prompt = seq.num_prompt;
    if (seq.params().uses_penalties()) source.counts = &seq.counts;
    source.bad_words = seq.request->bad_words;
    source.eos_tokens = eos_tokens_;
    for (int64_t draw = 0; draw < planned.num_draws(); ++draw) {
      source.num_unknown = planned.end + draw - seq.num_tokens();
      add_row_(samples_, source);
    }
  } catch (const std::exception& failure) {
    error = str("sampling could not be set up: ", failure.what());
    samples_.rows.resize(num_rows);
    samples_.edits.resize(num_edits);
    samples_.counts.resize(num_counts);
    samples_.masks.resize(num_mask_words);
    for (int64_t draw = 0; draw < planned.num_draws(); ++draw) {
      add_forced_row(samples_, 0, -1);  // holds the row's place; its result is not looked at
    }
  }
}

}  // namespace pagoda

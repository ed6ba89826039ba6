// BatchBuilder: the arrays of a step, by hand.
#include <gtest/gtest.h>

#include <memory>

#include "core/check.h"
#include "engine/batch_builder.h"
#include "sim_engine.h"

namespace pagoda {
namespace {

template <class T>
std::vector<int32_t> array(const T* begin, int count) {
  return {begin, begin + count};
}

using Ints = std::vector<int32_t>;

struct Fixture {
  Limits limits = sim::SimOptions{}.limits();  // blocks of 4 tokens
  BatchBuilder builder{limits, {}};
  std::vector<std::unique_ptr<Sequence>> sequences;

  Sequence* add(Request request, std::vector<BlockId> blocks) {
    auto seq = std::make_unique<Sequence>();
    seq->num_prompt = std::ssize(request.prompt);
    seq->tokens = request.prompt;
    seq->request = std::make_shared<const Request>(std::move(request));
    seq->table.blocks = std::move(blocks);
    return sequences.emplace_back(std::move(seq)).get();
  }
};

StepPlan plan_of(std::vector<PlannedSeq> seqs) {
  StepPlan plan;
  plan.seqs = std::move(seqs);
  for (const PlannedSeq& planned : plan.seqs) plan.num_tokens += planned.end - planned.begin;
  return plan;
}

TEST(BatchBuilder, draft_tokens_follow_the_known_ones_and_each_position_draws) {
  Fixture f;
  const Ints draft{21, 22, 23};
  PlannedSeq drafting{f.add(sim::make_request("a", {10, 11, 12, 13, 14, 15}, 5), {7, 3, 2}), 5, 6, 5, 5, true};
  drafting.draft = draft;
  const PlannedSeq plain{f.add(sim::make_request("b", {30, 31, 32}, 5), {9}), 2, 3, 2, 2, true};
  StepPlan plan = plan_of({drafting, plain});
  plan.num_tokens += 3;
  f.builder.build(plan);
  const Batch batch = f.builder.batch_at(f.builder.host().data());
  EXPECT_EQ(batch.max_query_len, 4);
  EXPECT_EQ(batch.max_kv_len, 9);
  EXPECT_EQ(array(batch.token_ids, 5), (Ints{15, 21, 22, 23, 32}));
  EXPECT_EQ(array(batch.positions, 5), (Ints{5, 6, 7, 8, 2}));
  EXPECT_EQ(array(batch.slots, 5), (Ints{13, 14, 15, 8, 38}));
  EXPECT_EQ(array(batch.query_start, 3), (Ints{0, 4, 5}));
  EXPECT_EQ(array(batch.kv_len, 2), (Ints{9, 3}));
  EXPECT_EQ(array(batch.logit_rows, batch.num_logit_rows), (Ints{0, 1, 2, 3, 4}));
  std::vector<uint64_t> counters;
  for (const SampleRow& row : f.builder.samples().rows) counters.push_back(row.counter);
  EXPECT_EQ(counters, (std::vector<uint64_t>{6, 7, 8, 9, 3}));
}

TEST(BatchBuilder, fills_up_a_step_of_single_tokens) {
  Fixture f;
  BatchBuilder builder(f.limits, {}, add_sample_row, true);
  std::vector<PlannedSeq> planned;
  for (int i = 0; i < 5; ++i) {
    planned.push_back({f.add(sim::make_request("a", {10, 11, 12, 13, 14, 15}, 5), {7, 3}), 5, 6, 5, 5, true});
  }
  builder.build(plan_of(planned));
  const Batch batch = builder.batch_at(builder.host().data());
  EXPECT_EQ(batch.num_tokens, 8);
  EXPECT_EQ(batch.num_seqs, 8);
  EXPECT_EQ(batch.num_logit_rows, 8);
  EXPECT_EQ(batch.max_blocks, 4);
  EXPECT_EQ(batch.max_kv_len, 16);
  EXPECT_EQ(builder.samples().rows.size(), 5u);
  EXPECT_EQ(array(batch.token_ids, 8), (Ints{15, 15, 15, 15, 15, 0, 0, 0}));
  EXPECT_EQ(array(batch.slots, 8), (Ints{13, 13, 13, 13, 13, -1, -1, -1}));
  EXPECT_EQ(array(batch.query_start, 9), (Ints{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(array(batch.kv_len, 8), (Ints{6, 6, 6, 6, 6, 1, 1, 1}));
  EXPECT_EQ(batch.block_table[7 * 4], 0);
  EXPECT_EQ(array(batch.logit_rows, 8), (Ints{0, 1, 2, 3, 4, 5, 6, 7}));
  const uint64_t key = builder.shape_key();
  EXPECT_NE(key, 0u);

  planned.resize(7, planned[0]);
  builder.build(plan_of(planned));
  EXPECT_EQ(builder.shape_key(), key) << "the same sizes and places";
  planned.resize(2);
  builder.build(plan_of(planned));
  EXPECT_NE(builder.shape_key(), key);
}

TEST(BatchBuilder, a_step_with_a_chunk_or_prompt_rows_is_not_filled_up) {
  Fixture f;
  BatchBuilder builder(f.limits, {}, add_sample_row, true);
  Sequence* decoding = f.add(sim::make_request("a", {10, 11, 12, 13, 14, 15}, 5), {7, 3});
  Sequence* chunk = f.add(sim::make_request("b", {20, 21, 22, 23, 24, 25, 26, 27, 28}, 5), {1, 0, 2});
  builder.build(plan_of({{decoding, 5, 6, 5, 5, true}, {chunk, 3, 8, 3, 3, false}}));
  EXPECT_EQ(builder.shape_key(), 0u);
  EXPECT_EQ(builder.batch_at(builder.host().data()).num_tokens, 6);
  builder.build(plan_of({{decoding, 5, 6, 5, 5, true}, {chunk, 3, 4, 3, 3, false}}));
  EXPECT_EQ(builder.shape_key(), 0u) << "a single token without a row of logits";
}

TEST(BatchBuilder, lays_out_a_decoding_sequence_and_a_chunk) {
  Fixture f;
  Sequence* decoding = f.add(sim::make_request("a", {10, 11, 12, 13, 14, 15}, 5), {7, 3});
  Sequence* chunk = f.add(sim::make_request("b", {20, 21, 22, 23, 24, 25, 26, 27, 28}, 5), {1, 0, 2});
  const StepPlan plan = plan_of({{decoding, 5, 6, 5, 5, true}, {chunk, 3, 8, 3, 3, false}});
  f.builder.build(plan);
  const Batch batch = f.builder.batch_at(f.builder.host().data());
  EXPECT_EQ(batch.num_tokens, 6);
  EXPECT_EQ(batch.num_seqs, 2);
  EXPECT_EQ(batch.max_blocks, 2);
  EXPECT_EQ(batch.num_logit_rows, 1);
  EXPECT_EQ(batch.max_query_len, 5);
  EXPECT_EQ(batch.max_kv_len, 8);
  EXPECT_EQ(batch.block_size, 4);
  EXPECT_EQ(array(batch.token_ids, 6), (Ints{15, 23, 24, 25, 26, 27}));
  EXPECT_EQ(array(batch.positions, 6), (Ints{5, 3, 4, 5, 6, 7}));
  EXPECT_EQ(array(batch.slots, 6), (Ints{13, 7, 0, 1, 2, 3}));
  EXPECT_EQ(array(batch.query_start, 3), (Ints{0, 1, 6}));
  EXPECT_EQ(array(batch.kv_len, 2), (Ints{6, 8}));
  EXPECT_EQ(array(batch.block_table, 4), (Ints{7, 3, 1, 0}));
  EXPECT_EQ(array(batch.logit_rows, 1), (Ints{0}));
  EXPECT_EQ(array(batch.logit_positions, 1), (Ints{5}));
  EXPECT_EQ(array(batch.logit_start, 3), (Ints{0, 1, 1}));
  EXPECT_EQ(batch.logit_start + 3, f.builder.host().data() + f.builder.host().size());
  const Batch rows = batch.logits_only();
  EXPECT_EQ(rows.num_tokens, 1);
  EXPECT_EQ(rows.num_seqs, 2);
  EXPECT_EQ(rows.positions, batch.logit_positions);
  EXPECT_EQ(rows.query_start, batch.logit_start);
  ASSERT_EQ(f.builder.samples().rows.size(), 1u);
  EXPECT_EQ(f.builder.samples().rows[0].counter, 6u);
}

TEST(BatchBuilder, picks_the_rows_that_need_logits_out_of_all) {
  Fixture f;
  Sequence* chunk = f.add(sim::make_request("a", {20, 21, 22, 23, 24, 25, 26, 27, 28}, 5), {1, 0, 2});
  Sequence* whole = f.add(sim::make_request("b", {10, 11, 12}, 5), {7});
  Sequence* decoding = f.add(sim::make_request("c", {10, 11, 12, 13, 14, 15}, 5), {5, 3});
  f.builder.build(plan_of({{chunk, 3, 8, 3, 3, false}, {whole, 0, 3, 0, 0, true}, {decoding, 5, 6, 5, 5, true}}));
  const Batch rows = f.builder.batch_at(f.builder.host().data()).logits_only();
  EXPECT_EQ(rows.num_tokens, 2);
  EXPECT_EQ(array(rows.positions, 2), (Ints{2, 5}));
  EXPECT_EQ(array(rows.query_start, 4), (Ints{0, 0, 1, 2}));
  EXPECT_EQ(array(rows.kv_len, 3), (Ints{8, 3, 6}));
}

TEST(BatchBuilder, prompt_logprob_rows_name_the_token_that_follows) {
  Fixture f;
  Request request = sim::make_request("a", {10, 11, 12}, 5);
  request.params.prompt_logprobs = 2;
  Sequence* seq = f.add(request, {5});
  f.builder.build(plan_of({{seq, 0, 3, 0, 2, true}}));
  const Batch batch = f.builder.batch_at(f.builder.host().data());
  EXPECT_EQ(array(batch.logit_rows, batch.num_logit_rows), (Ints{0, 1, 2}));
  EXPECT_EQ(batch.logit_start, nullptr) << "all rows are logit rows";
  const auto& rows = f.builder.samples().rows;
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].forced_token, 11);
  EXPECT_EQ(rows[0].num_top, 2);
  EXPECT_EQ(rows[1].forced_token, 12);
  EXPECT_EQ(rows[2].forced_token, -1);
}

TEST(BatchBuilder, a_step_beyond_the_planned_sizes_is_an_internal_error) {
  Fixture f;
  Sequence* seq = f.add(sim::make_request("a", sim::make_prompt(150), 1), std::vector<BlockId>(38));
  EXPECT_THROW(f.builder.build(plan_of({{seq, 0, 150, 0, 149, true}})), InternalError);
}

TEST(BatchBuilder, the_planned_bytes_hold_the_largest_step) {
  sim::SimOptions options;
  options.max_num_seqs = 8;
  options.max_num_batched_tokens = 8;
  options.num_blocks = 4096;
  options.block_size = 1;
  const Limits limits = options.limits();
  BatchBuilder builder(limits, {});
  Fixture f;
  std::vector<PlannedSeq> seqs;
  for (int i = 0; i < 8; ++i) {
    Sequence* seq = f.add(sim::make_request("a", sim::make_prompt(199), 1), std::vector<BlockId>(200));
    seqs.push_back({seq, 199, 200, 199, 199, i < 7, i});  // the last token is drawn by the step before
  }
  builder.build(plan_of(seqs));
  EXPECT_EQ(builder.host().size_bytes(), limits.batch_bytes());
  const Batch batch = builder.batch_at(builder.host().data());
  EXPECT_EQ(array(batch.token_sources, 8), (Ints{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(builder.samples().rows[3].counter, 200u) << "the position of the token to draw";
}

}  // namespace
}  // namespace pagoda

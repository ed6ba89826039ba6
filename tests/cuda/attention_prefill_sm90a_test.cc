// Hopper's prefill attention against double precision over the grid of shapes, under every schedule; bits that do not depend on
// the batch, on chunks or on the device's size; where it does not apply.
#include "cuda/attention_prefill_sm90a.h"

#include <gtest/gtest.h>

#include "attention_reference.h"

namespace pagoda::cuda {
namespace {

Queue hopper_queue(int num_multiprocessors = 3) {
  Queue queue = test_queue(num_multiprocessors, 90);
  queue.deterministic = false;
  return queue;
}

/// Runs the kernel whatever the number of its rows.
void run(AttentionProblem& problem, const Queue& queue) {
  problem.clear();
  AttentionParams params = problem.params(0);
  constexpr int kMany = 1000;
  ASSERT_TRUE(prefill_attention_sm90a(queue, params, problem.setup().kv_dtype, kMany));
  synchronize();
}

std::string describe(const AttentionCase& c) {
  std::string text = str(c.num_heads, "/", c.kv_heads, " heads of ", c.head_dim, ", blocks of ", c.block_size, ", window ",
                         c.window, ", cap ", c.soft_cap, c.sinks ? ", sinks" : "", ", sequences");
  for (const AttentionSequence& seq : c.seqs) text += str(" ", seq.query_len, "/", seq.kv_len);
  return text;
}

void expect_right(const AttentionCase& c, const std::vector<unsigned>& schedules) {
  AttentionProblem problem(c);
  for (unsigned seed : schedules) {
    const ScheduleScope scope(seed);
    run(problem, hopper_queue());
    EXPECT_LT(problem.worst_error(), 6e-3) << describe(c) << ", schedule " << seed;
  }
}

const std::vector<unsigned> kAll(std::begin(kSchedules), std::end(kSchedules));

TEST(AttentionPrefillSm90a, is_right_under_every_schedule) {
  expect_right({.num_heads = 8, .kv_heads = 2, .head_dim = 128, .seqs = {{70, 70, 0}, {3, 333, 1}}}, kAll);
  expect_right({.num_heads = 3, .kv_heads = 1, .head_dim = 64, .block_size = 32, .seqs = {{45, 400, 0}}}, kAll);
  expect_right({.num_heads = 2, .kv_heads = 1, .head_dim = 256, .block_size = 64, .seqs = {{40, 300, 0}}}, kAll);
}

TEST(AttentionPrefillSm90a, is_right_for_all_groups_and_blocks) {
  for (int group : {1, 3, 4, 7, 8, 16}) {
    for (int block_size : {8, 16, 32, 64, 128}) {
      const int head_dim = (group + block_size) % 3 ? 64 : 128;
      AttentionCase c{.num_heads = 2 * group, .kv_heads = 2, .head_dim = head_dim, .block_size = block_size, .seqs = {}};
      c.seqs = {{150 / group + 2, 150 / group + 2 + block_size % 13, 0}, {2, 130, 1}};
      expect_right(c, {static_cast<unsigned>(group + block_size / 8) % 8});
    }
  }
}

TEST(AttentionPrefillSm90a, fills_up_heads_of_other_sizes) {
  for (int head_dim : {8, 40, 72, 96, 120, 136, 192}) {
    expect_right({.num_heads = 4, .kv_heads = 2, .head_dim = head_dim, .seqs = {{33, 90, 0}}}, {2, 3});
  }
}

TEST(AttentionPrefillSm90a, sees_windows_caps_and_sinks) {
  for (int head_dim : {64, 128, 256}) {
    for (int window : {1, 20, 64, 130}) {
      AttentionCase c{.num_heads = 4,
                      .kv_heads = 1,
                      .head_dim = head_dim,
                      .block_size = window == 20 ? 32 : 16,
                      .window = window,
                      .seqs = {}};
      c.soft_cap = window == 64 ? 3.0f : 0.0f;
      c.sinks = window != 130;
      c.seqs = {{40, 290, 0}, {50, 50, 1}};
      expect_right(c, {static_cast<unsigned>(window + head_dim / 64) % 8, 0});
    }
    expect_right({.num_heads = 4,
                  .kv_heads = 4,
                  .head_dim = head_dim,
                  .window = 75,
                  .soft_cap = 30,
                  .sinks = true,
                  .seqs = {{140, 140, 0}}},
                 {5});
  }
}

TEST(AttentionPrefillSm90a, takes_padded_rows) {
  expect_right({.num_heads = 4, .kv_heads = 2, .head_dim = 64, .stride_padding = 24, .seqs = {{20, 50, 0}, {9, 9, 1}}}, {4});
}

/// Many sequences, of which those with one query are left alone.
TEST(AttentionPrefillSm90a, leaves_single_queries_to_decode) {
  AttentionCase c{.num_heads = 2, .kv_heads = 1, .head_dim = 64, .seqs = {}};
  std::mt19937 random(3);
  for (unsigned id = 0; id < 75; ++id) {
    const int queries = 1 + static_cast<int>(random() % 6), cached = static_cast<int>(random() % 100);
    c.seqs.push_back({queries, queries + cached, id});
  }
  AttentionProblem problem(c);
  for (int multiprocessors : {1, 7, 200}) {
    run(problem, hopper_queue(multiprocessors));
    for (size_t seq = 0; seq < c.seqs.size(); ++seq) {
      if (c.seqs[seq].query_len == 1) {
        const std::vector<std::byte> out = problem.output_of(seq);
        EXPECT_EQ(out, std::vector<std::byte>(out.size(), std::byte{0xff})) << "sequence " << seq;
      } else {
        EXPECT_LT(problem.error_of(seq), 6e-3) << "sequence " << seq;
      }
    }
  }
}

TEST(AttentionPrefillSm90a, bits_do_not_depend_on_the_batch_nor_on_the_device) {
  const AttentionCase alone{.num_heads = 6, .kv_heads = 2, .head_dim = 128, .seqs = {{90, 310, 5}}};
  AttentionCase together = alone;
  together.shuffle = 9;
  together.seqs = {{30, 30, 1}, {1, 77, 2}, {90, 310, 5}, {2, 500, 3}};
  AttentionProblem first(alone), second(together);
  run(first, hopper_queue(1));
  run(second, hopper_queue(5));
  EXPECT_EQ(first.output_of(0), second.output_of(2));
}

TEST(AttentionPrefillSm90a, bits_do_not_depend_on_chunks) {
  const AttentionCase whole{.num_heads = 4, .kv_heads = 1, .head_dim = 64, .window = 200, .seqs = {{300, 300, 5}}};
  AttentionProblem problem(whole);
  run(problem, hopper_queue());
  const std::vector<std::byte> bytes = problem.output_of(0);
  for (int begin : {0, 37, 100, 298}) {
    const int end = std::min(300, begin + 101);
    AttentionCase part = whole;
    part.seqs = {{end - begin, end, 5}};
    AttentionProblem chunk(part);
    run(chunk, hopper_queue());
    const size_t row = bytes.size() / 300;
    const std::vector<std::byte> expected(bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(begin) * row),
                                          bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(end) * row));
    EXPECT_EQ(chunk.output_of(0), expected) << "from " << begin;
  }
}

TEST(AttentionPrefillSm90a, is_what_attention_uses_if_the_order_of_sums_is_free) {
  const AttentionCase c{.num_heads = 4, .kv_heads = 2, .head_dim = 64, .seqs = {{80, 100, 0}, {1, 300, 1}}};
  AttentionProblem problem(c);
  run(problem, hopper_queue());
  const std::vector<std::byte> expected = problem.output_of(0);
  problem.run(hopper_queue());
  EXPECT_EQ(problem.output_of(0), expected);
  EXPECT_LT(problem.worst_error(), 6e-3);
  problem.run(test_queue());
  EXPECT_NE(problem.output_of(0), expected) << "another kernel, other roundings";
  EXPECT_LT(problem.worst_error(), 6e-3);
}

TEST(AttentionPrefillSm90a, does_not_apply_where_it_must_not) {
  const AttentionCase c{.num_heads = 4, .kv_heads = 2, .head_dim = 64, .seqs = {{80, 80, 0}}};
  AttentionProblem problem(c);
  AttentionParams params = problem.params(0);
  const auto applies = [](const Queue& queue, const AttentionParams& p, DType dtype = DType::bf16, int queries = 80) {
    const bool applied = prefill_attention_sm90a(queue, p, dtype, queries);
    synchronize();
    return applied;
  };
  const uint64_t launches = emu::num_launches();
  Queue deterministic = hopper_queue(), ampere = hopper_queue(), blackwell = hopper_queue();
  deterministic.deterministic = true;
  ampere.compute_capability = 80;
  blackwell.compute_capability = 100;
  for (const Queue& queue : {deterministic, ampere, blackwell}) EXPECT_FALSE(applies(queue, params));
  EXPECT_FALSE(applies(hopper_queue(), params, DType::f16));
  EXPECT_FALSE(applies(hopper_queue(), params, DType::f8_e4m3));
  EXPECT_FALSE(applies(hopper_queue(), params, DType::bf16, 20));
  const auto changed = [&](auto change) {
    AttentionParams other = params;
    change(other);
    return other;
  };
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.head_dim = 60; })));
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.head_dim = 264; })));
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.block_shift = 2; })));
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.num_tokens = 0; })));
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.q_stride += 1; })));
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.out_stride += 1; })));
  EXPECT_FALSE(applies(hopper_queue(), changed([](AttentionParams& p) { p.q += 1; })));
  EXPECT_EQ(emu::num_launches(), launches);
  EXPECT_TRUE(applies(hopper_queue(), params));
  EXPECT_EQ(emu::num_launches(), launches + 1);
}

}  // namespace
}  // namespace pagoda::cuda

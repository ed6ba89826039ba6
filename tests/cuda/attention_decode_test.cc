// Decode attention: right within the rounding of its 16-bit weights, and the same bits whatever else is in the batch, wherever
// the blocks lie, however the work is dealt, and whichever kernel computes a query.
#include <string>

#include "attention_reference.h"

namespace pagoda::cuda {
namespace {

constexpr double kTolerance = 5e-3;
constexpr DType kKvTypes[] = {DType::bf16, DType::f16, DType::f8_e4m3};

std::string describe(const AttentionCase& c) {
  return str(dtype_name(c.kv_dtype), ", ", c.num_heads, "/", c.kv_heads, " heads of ", c.head_dim, ", blocks of ", c.block_size,
             ", window ", c.window);
}

/// Runs the decode kernels alone, with room for `num_partials` leaves; outputs of longer queries stay NaN.
void decode(AttentionProblem& problem, int num_partials = 100, const Queue& queue = test_queue()) {
  problem.clear();
  decode_attention(queue, problem.params(num_partials), problem.setup().kv_dtype, 1);
  synchronize();
}

void expect_right(const AttentionCase& c) {
  AttentionProblem problem(c);
  decode(problem);
  EXPECT_LT(problem.worst_error(), kTolerance) << describe(c);
}

const std::vector<AttentionSequence> kContexts = {{1, 1, 1},   {1, 15, 2},  {1, 64, 3},  {1, 65, 4},  {1, 255, 5},
                                                  {1, 256, 6}, {1, 257, 7}, {1, 700, 8}, {1, 1300, 9}};

TEST(DecodeAttention, matches_double_precision_for_every_head_size_type_and_group) {
  const int groups[] = {1, 3, 4, 7, 8, 16}, blocks[] = {16, 32, 64, 1, 8};
  int turn = 0;
  for (const int head_dim : {64, 96, 128, 256, 16, 40, 80}) {
    for (const DType type : kKvTypes) {
      AttentionCase c{.num_heads = groups[turn % 6],
                      .kv_heads = 1,
                      .head_dim = head_dim,
                      .block_size = blocks[turn % 5],
                      .kv_dtype = type,
                      .seqs = kContexts};
      expect_right(c);
      ++turn;
    }
  }
}

TEST(DecodeAttention, groups_of_any_size_are_taken_in_pieces) {
  const std::vector<AttentionSequence> seqs = {{1, 70, 1}, {1, 300, 2}};
  for (const int group : {2, 5, 9, 15, 17, 24, 35}) {
    expect_right({.num_heads = 2 * group, .kv_heads = 2, .head_dim = 64, .seqs = seqs});
  }
  for (const int group : {8, 9, 16}) expect_right({.num_heads = group, .kv_heads = 1, .head_dim = 256, .seqs = seqs});
  for (const DType type : kKvTypes) {
    for (const int head_dim : {96, 128}) {
      expect_right({.num_heads = 16, .kv_heads = 1, .head_dim = head_dim, .kv_dtype = type, .seqs = seqs});
    }
  }
}

TEST(DecodeAttention, blocks_of_any_power_of_two_hold_the_same_keys) {
  for (const DType type : kKvTypes) {
    std::vector<std::byte> first;
    for (const int block_size : {1, 2, 4, 8, 16, 64, 256}) {
      AttentionProblem problem({.head_dim = 96, .block_size = block_size, .kv_dtype = type, .seqs = {{1, 333, 1}}});
      decode(problem);
      if (first.empty()) {
        first = problem.output_of(0);
        EXPECT_LT(problem.worst_error(), kTolerance);
      }
      EXPECT_EQ(problem.output_of(0), first) << "blocks of " << block_size;
    }
  }
}

TEST(DecodeAttention, heads_and_rows_of_odd_sizes_are_right) {
  for (const DType type : kKvTypes) {
    for (const int head_dim : {12, 33, 100, 130}) {
      expect_right({.num_heads = 3,
                    .kv_heads = 1,
                    .head_dim = head_dim,
                    .kv_dtype = type,
                    .stride_padding = 3,
                    .seqs = {{1, 80, 1}, {1, 270, 2}}});
    }
  }
}

TEST(DecodeAttention, windows_caps_and_sinks_are_right) {
  const std::vector<AttentionSequence> seqs = {{1, 1, 1}, {1, 60, 2}, {1, 257, 3}, {1, 320, 4}, {1, 641, 5}};
  for (const int window : {1, 2, 17, 63, 64, 65, 128, 256, 257, 300, 1000}) {
    expect_right({.window = window, .seqs = seqs});
    expect_right({.block_size = 2, .kv_dtype = DType::f8_e4m3, .window = window, .seqs = seqs});
  }
  expect_right({.soft_cap = 3, .seqs = seqs});
  expect_right({.num_heads = 12, .kv_heads = 1, .head_dim = 128, .soft_cap = 30, .seqs = seqs});
  expect_right({.sinks = true, .seqs = seqs});
  expect_right({.kv_dtype = DType::f16, .window = 128, .soft_cap = 5, .sinks = true, .seqs = seqs});
}

TEST(DecodeAttention, is_the_same_under_every_schedule) {
  const AttentionCase cases[] = {
      {.num_heads = 4, .kv_heads = 2, .head_dim = 64, .seqs = {{1, 270, 1}, {1, 3, 2}, {1, 64, 3}}},
      {.num_heads = 9, .kv_heads = 1, .head_dim = 96, .kv_dtype = DType::f8_e4m3, .seqs = {{1, 270, 1}, {1, 70, 2}}},
      {.num_heads = 2, .kv_heads = 1, .head_dim = 33, .window = 40, .seqs = {{1, 290, 1}}},
  };
  for (const AttentionCase& c : cases) {
    AttentionProblem problem(c);
    decode(problem);
    EXPECT_LT(problem.worst_error(), kTolerance) << describe(c);
    const HostTensor first = problem.out();
    for (const unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      for (const int room : {0, 10}) {
        decode(problem, room, test_queue(2));
        EXPECT_TRUE(problem.out() == first) << describe(c) << ", schedule " << seed << ", room " << room;
      }
    }
  }
}

TEST(DecodeAttention, the_bits_of_a_sequence_do_not_depend_on_its_batch) {
  for (const DType type : kKvTypes) {
    AttentionCase c{.num_heads = 6, .kv_heads = 2, .head_dim = 64, .kv_dtype = type, .seqs = kContexts};
    AttentionProblem all(c);
    decode(all);
    for (size_t s = 0; s < kContexts.size(); ++s) {
      c.seqs = {kContexts[s]};
      AttentionProblem alone(c);
      decode(alone);
      EXPECT_EQ(alone.output_of(0), all.output_of(s)) << "context " << kContexts[s].kv_len << ", " << dtype_name(type);
    }
  }
}

TEST(DecodeAttention, it_does_not_matter_where_blocks_lie) {
  AttentionCase c{.num_heads = 8, .kv_heads = 1, .head_dim = 128, .seqs = {{1, 40, 1}, {1, 600, 2}}};
  AttentionProblem first(c);
  decode(first);
  for (c.shuffle = 2; c.shuffle < 6; ++c.shuffle) {
    AttentionProblem other(c);
    decode(other);
    EXPECT_TRUE(other.out() == first.out());
  }
}

TEST(DecodeAttention, split_and_whole_sequences_on_any_device_give_the_same_bits) {
  const AttentionCase cases[] = {
      {.num_heads = 4, .kv_heads = 2, .head_dim = 64, .seqs = {{1, 300, 1}, {1, 20, 2}, {1, 800, 3}, {1, 270, 4}}},
      {.num_heads = 12, .kv_heads = 1, .head_dim = 128, .sinks = true, .seqs = {{1, 260, 1}, {1, 520, 3}}},
      {.num_heads = 2,
       .kv_heads = 1,
       .head_dim = 256,
       .kv_dtype = DType::f8_e4m3,
       .window = 300,
       .seqs = {{1, 270, 1}, {1, 600, 3}}},
  };
  for (const AttentionCase& c : cases) {
    AttentionProblem problem(c);
    decode(problem);
    const HostTensor first = problem.out();
    for (const int room : {0, 2, 5, 6, 64}) {
      decode(problem, room);
      EXPECT_TRUE(problem.out() == first) << describe(c) << ", room " << room;
    }
    for (const int multiprocessors : {1, 3, 50}) {
      for (const int capability : {80, 90}) {
        decode(problem, 5, test_queue(multiprocessors, capability));
        EXPECT_TRUE(problem.out() == first) << describe(c) << ", multiprocessors " << multiprocessors;
      }
    }
    Queue small = test_queue();
    small.shared_bytes = 99 * 1024;
    decode(problem, 5, small);
    EXPECT_TRUE(problem.out() == first) << describe(c);
  }
}

TEST(DecodeAttention, many_leaves_are_combined_in_order) {
  AttentionProblem problem({.num_heads = 1, .kv_heads = 1, .head_dim = 33, .seqs = {{1, 256 * 33 + 5, 1}, {1, 256 * 16, 2}}});
  decode(problem);
  EXPECT_LT(problem.worst_error(), kTolerance);
  const HostTensor split = problem.out();
  decode(problem, 0);
  EXPECT_TRUE(problem.out() == split);
}

TEST(DecodeAttention, many_short_sequences_share_the_blocks) {
  AttentionCase c{.num_heads = 2, .kv_heads = 1, .head_dim = 16, .block_size = 8, .seqs = {}};
  for (unsigned i = 0; i < 300; ++i) c.seqs.push_back({1, static_cast<int>(i % 37 + 1), i});
  expect_right(c);
}

TEST(DecodeAttention, sequences_of_longer_queries_are_left_alone) {
  AttentionProblem problem({.seqs = {{2, 300, 1}, {1, 300, 2}, {300, 300, 3}, {1, 10, 4}}});
  decode(problem);
  EXPECT_LT(problem.error_of(1), kTolerance);
  EXPECT_LT(problem.error_of(3), kTolerance);
  for (const size_t seq : {size_t{0}, size_t{2}}) {
    for (const std::byte byte : problem.output_of(seq)) ASSERT_EQ(byte, std::byte{0xff});
  }
}

TEST(DecodeAttention, a_recorded_launch_serves_other_contexts) {
  const AttentionCase c{.seqs = {{1, 700, 1}, {1, 90, 2}}};
  AttentionProblem problem(c);
  AttentionParams p = problem.params(4);
  std::vector<int32_t> kv_len(p.kv_len, p.kv_len + 2);
  p.kv_len = kv_len.data();
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  Queue queue = test_queue();
  queue.stream = stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  kv_len = {1, 1};
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
  decode_attention(queue, p, c.kv_dtype, 1);
  check(cudaStreamEndCapture(stream, &graph), "end");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  check(cudaGraphLaunch(executable, stream), "launch");
  check(cudaStreamSynchronize(stream), "wait");
  EXPECT_GT(problem.worst_error(), 0.1);  // of contexts of one key
  kv_len = {700, 90};
  check(cudaGraphLaunch(executable, stream), "launch");
  check(cudaStreamSynchronize(stream), "wait");
  EXPECT_LT(problem.worst_error(), kTolerance);
  check(cudaGraphExecDestroy(executable), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
  check(cudaStreamDestroy(stream), "destroy");
}

}  // namespace
}  // namespace pagoda::cuda

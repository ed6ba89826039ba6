// Prefill attention: right within the rounding of its 16-bit weights, for every shape of the kernel (they differ by device),
// and the same bits under every schedule and on every device.
#include <string>

#include "attention_reference.h"

namespace pagoda::cuda {
namespace {

constexpr double kTolerance = 5e-3;
constexpr DType kKvTypes[] = {DType::bf16, DType::f16, DType::f8_e4m3};

/// Queues of devices whose blocks may have 227, 163 and 99 KiB of shared memory.
std::vector<Queue> devices() {
  Queue small = test_queue(3, 80);
  small.shared_bytes = 99 * 1024;
  return {test_queue(4, 90), test_queue(5, 80), small};
}

std::string describe(const AttentionCase& c, const Queue& queue) {
  return str(dtype_name(c.kv_dtype), ", ", c.num_heads, "/", c.kv_heads, " heads of ", c.head_dim, ", blocks of ", c.block_size,
             ", window ", c.window, ", ", queue.shared_bytes / 1024, " KiB");
}

/// Runs the prefill kernel alone.
void prefill(AttentionProblem& problem, const Queue& queue) {
  problem.clear();
  prefill_attention(queue, problem.params(0), problem.setup().kv_dtype, 2);
  synchronize();
}

void expect_right(const AttentionCase& c, const Queue& queue) {
  AttentionProblem problem(c);
  prefill(problem, queue);
  for (size_t s = 0; s < c.seqs.size(); ++s) {
    if (c.seqs[s].query_len > 1) {
      EXPECT_LT(problem.error_of(s), kTolerance) << describe(c, queue) << ", sequence " << s;
    }
  }
}

/// Whole prompts, the ends of long ones, and queries of one in between.
const std::vector<AttentionSequence> kRagged = {{2, 2, 1},   {1, 90, 2}, {5, 64, 3}, {3, 300, 4},
                                                {11, 71, 5}, {1, 1, 6},  {2, 257, 7}};

TEST(PrefillAttention, matches_double_precision_for_every_head_size_type_and_device) {
  const int groups[] = {1, 3, 4, 7, 8, 16}, blocks[] = {16, 32, 64, 1, 8};
  int turn = 0;
  for (const Queue& queue : devices()) {
    for (const int head_dim : {64, 96, 128, 256, 16, 40, 80, 112, 192}) {
      for (const DType type : kKvTypes) {
        expect_right({.num_heads = groups[turn % 6],
                      .kv_heads = 1,
                      .head_dim = head_dim,
                      .block_size = blocks[turn % 5],
                      .kv_dtype = type,
                      .seqs = {kRagged.begin() + turn % 4, kRagged.begin() + turn % 4 + 4}},
                     queue);
        ++turn;
      }
    }
  }
}

TEST(PrefillAttention, rows_of_a_block_are_queries_and_heads_of_any_group) {
  for (const int group : {1, 2, 3, 4, 5, 7, 8, 11, 16, 35}) {
    expect_right({.num_heads = 2 * group, .kv_heads = 2, .head_dim = 64, .seqs = {{2, 70, 1}, {160 / group, 270, 2}}},
                 test_queue());
  }
  for (const int group : {1, 3, 7, 16}) {
    expect_right({.num_heads = group, .kv_heads = 1, .head_dim = 128, .seqs = {{600 / group, 600 / group, 1}}}, test_queue());
  }
}

TEST(PrefillAttention, queries_that_are_alone_in_their_sequence_are_left_to_decode) {
  AttentionProblem problem({.seqs = kRagged});
  prefill(problem, test_queue());
  const AttentionProblem untouched({.seqs = kRagged});
  for (size_t s = 0; s < kRagged.size(); ++s) {
    EXPECT_EQ(problem.output_of(s) == untouched.output_of(s), kRagged[s].query_len == 1) << s;
  }
  const uint64_t before = emu::num_launches();
  prefill_attention(test_queue(), problem.params(0), DType::bf16, 1);
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

TEST(PrefillAttention, blocks_of_any_power_of_two_hold_the_same_keys) {
  for (const DType type : kKvTypes) {
    std::vector<std::byte> first;
    for (const int block_size : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      AttentionProblem problem({.head_dim = 96, .block_size = block_size, .kv_dtype = type, .seqs = {{9, 333, 1}}});
      prefill(problem, test_queue());
      if (first.empty()) {
        first = problem.output_of(0);
        EXPECT_LT(problem.worst_error(), kTolerance);
      }
      EXPECT_EQ(problem.output_of(0), first) << "blocks of " << block_size;
    }
  }
}

TEST(PrefillAttention, heads_and_rows_of_odd_sizes_are_right) {
  for (const Queue& queue : devices()) {
    for (const DType type : kKvTypes) {
      for (const int head_dim : {12, 33, 100, 130}) {
        expect_right({.num_heads = 3,
                      .kv_heads = 1,
                      .head_dim = head_dim,
                      .kv_dtype = type,
                      .stride_padding = 3,
                      .seqs = {{4, 80, 1}, {2, 270, 2}}},
                     queue);
      }
    }
  }
  // whole vectors in the cache, but rows of q that are not aligned, and the other way round
  expect_right({.head_dim = 64, .stride_padding = 1, .seqs = {{4, 80, 1}}}, test_queue());
  expect_right({.head_dim = 8, .kv_dtype = DType::f8_e4m3, .stride_padding = 8, .seqs = {{4, 80, 1}}}, test_queue());
}

TEST(PrefillAttention, windows_caps_and_sinks_are_right) {
  const std::vector<AttentionSequence> seqs = {{2, 2, 1}, {30, 60, 2}, {3, 257, 3}, {70, 320, 4}};
  for (const int window : {1, 2, 17, 63, 64, 65, 128, 256, 257, 1000}) {
    expect_right({.window = window, .seqs = seqs}, test_queue());
  }
  for (const DType type : kKvTypes) {
    expect_right(
        {.num_heads = 1, .kv_heads = 1, .head_dim = 128, .block_size = 2, .kv_dtype = type, .window = 40, .seqs = seqs},
        test_queue());
    expect_right({.kv_dtype = type, .window = 128, .soft_cap = 5, .sinks = true, .seqs = seqs}, test_queue());
  }
  expect_right({.soft_cap = 3, .seqs = seqs}, test_queue());
  expect_right({.num_heads = 12, .kv_heads = 1, .head_dim = 128, .soft_cap = 30, .seqs = seqs}, test_queue());
  expect_right({.sinks = true, .seqs = seqs}, test_queue());
}

TEST(PrefillAttention, keys_outside_of_every_window_are_not_looked_up) {
  AttentionProblem problem({.block_size = 16, .window = 20, .seqs = {{4, 400, 1}}});
  AttentionParams p = problem.params(0);
  std::vector<int32_t> table(p.block_table, p.block_table + p.max_blocks);
  for (int block = 0; block < (400 - 4 - 20 + 1) / 16; ++block) table[static_cast<size_t>(block)] = -1000000;  // given back
  p.block_table = table.data();
  problem.clear();
  prefill_attention(test_queue(), p, DType::bf16, 4);
  synchronize();
  EXPECT_LT(problem.worst_error(), kTolerance);
}

TEST(PrefillAttention, is_the_same_under_every_schedule) {
  const AttentionCase cases[] = {
      {.num_heads = 4, .kv_heads = 2, .head_dim = 64, .seqs = {{20, 270, 1}, {1, 3, 2}, {3, 64, 3}}},
      {.num_heads = 3, .kv_heads = 1, .head_dim = 96, .kv_dtype = DType::f8_e4m3, .seqs = {{24, 130, 1}}},
      {.num_heads = 5, .kv_heads = 1, .head_dim = 128, .kv_dtype = DType::f16, .seqs = {{30, 150, 1}, {2, 140, 2}}},
      {.num_heads = 2, .kv_heads = 1, .head_dim = 256, .kv_dtype = DType::f8_e4m3, .seqs = {{40, 150, 1}}},
      {.num_heads = 2, .kv_heads = 1, .head_dim = 33, .window = 40, .seqs = {{9, 150, 1}}},
  };
  for (const AttentionCase& c : cases) {
    AttentionProblem problem(c);
    prefill(problem, test_queue());
    const HostTensor first = problem.out();
    expect_right(c, test_queue());
    for (const unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      for (const Queue& queue : {devices().front(), devices().back()}) {
        prefill(problem, queue);
        EXPECT_TRUE(problem.out() == first) << describe(c, queue) << ", schedule " << seed;
      }
    }
  }
}

TEST(PrefillAttention, every_device_gives_the_same_bits) {
  for (const int head_dim : {64, 128, 256}) {
    for (const DType type : kKvTypes) {
      const AttentionCase c{
          .num_heads = 3, .kv_heads = 1, .head_dim = head_dim, .kv_dtype = type, .seqs = {{30, 150, 1}, {2, 30, 2}}};
      AttentionProblem problem(c);
      prefill(problem, test_queue());
      const HostTensor first = problem.out();
      for (Queue queue : devices()) {
        for (const int multiprocessors : {1, 7}) {
          queue.num_multiprocessors = multiprocessors;
          prefill(problem, queue);
          EXPECT_TRUE(problem.out() == first) << describe(c, queue) << ", " << multiprocessors << " multiprocessors";
        }
      }
    }
  }
}

TEST(PrefillAttention, work_of_many_sequences_is_dealt_once_and_whole) {
  AttentionCase c{.num_heads = 2, .kv_heads = 2, .head_dim = 16, .seqs = {}};
  std::mt19937 random(5);
  for (unsigned s = 0; s < 150; ++s) {  // more than are listed at a time, many of them for decode
    const int queries = s % 3 ? 1 : 2 + static_cast<int>(random() % 3), cached = static_cast<int>(random() % 40);
    c.seqs.push_back({queries, cached + queries, s});
  }
  for (const int multiprocessors : {1, 3, 132}) expect_right(c, test_queue(multiprocessors));
  // contexts of very different lengths, with more tiles than blocks
  c.seqs = {{70, 90, 1}, {2, 700, 2}, {1, 300, 3}, {200, 200, 4}, {3, 5, 5}, {130, 420, 6}};
  for (const int multiprocessors : {1, 2}) expect_right(c, test_queue(multiprocessors));
}

}  // namespace
}  // namespace pagoda::cuda

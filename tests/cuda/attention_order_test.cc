// The one order in which attention is summed: a query's output has the same bits however its prompt was cut into steps,
// whatever else was in them and wherever the cache's blocks lay, with both kernels behind paged_attention.
#include <string>

#include "attention_reference.h"

namespace pagoda::cuda {
namespace {

std::vector<AttentionCase> cases() {
  return {
      {.num_heads = 4, .kv_heads = 2, .head_dim = 64, .seqs = {}},
      {.num_heads = 3, .kv_heads = 1, .head_dim = 96, .block_size = 32, .kv_dtype = DType::f16, .sinks = true, .seqs = {}},
      {.num_heads = 7, .kv_heads = 1, .head_dim = 128, .kv_dtype = DType::f8_e4m3, .seqs = {}},
      {.num_heads = 2, .kv_heads = 2, .head_dim = 128, .block_size = 1, .window = 100, .seqs = {}},
      {.num_heads = 2, .kv_heads = 2, .head_dim = 40, .window = 3, .seqs = {}},
      {.num_heads = 2, .kv_heads = 1, .head_dim = 256, .soft_cap = 20, .seqs = {}},
      {.num_heads = 9, .kv_heads = 1, .head_dim = 33, .block_size = 4, .kv_dtype = DType::f8_e4m3, .window = 290, .seqs = {}},
  };
}

std::string describe(const AttentionCase& c) {
  return str(dtype_name(c.kv_dtype), ", ", c.num_heads, "/", c.kv_heads, " heads of ", c.head_dim, ", window ", c.window);
}

/// What paged_attention makes of the batch, sequence by sequence.
std::vector<std::vector<std::byte>> run(AttentionCase c, const std::vector<AttentionSequence>& seqs,
                                        const Queue& queue = test_queue()) {
  c.seqs = seqs;
  AttentionProblem problem(c);
  problem.run(queue);
  std::vector<std::vector<std::byte>> outputs;
  for (size_t s = 0; s < seqs.size(); ++s) outputs.push_back(problem.output_of(s));
  return outputs;
}

/// Rows of tokens [begin, end) of a prompt's output.
std::vector<std::byte> rows_of(const std::vector<std::byte>& prompt, const AttentionCase& c, int begin, int end) {
  const auto row_bytes = static_cast<std::ptrdiff_t>(2 * c.num_heads * c.head_dim);
  return {prompt.begin() + begin * row_bytes, prompt.begin() + end * row_bytes};
}

TEST(AttentionOrder, a_prompt_may_be_cut_anywhere) {
  constexpr int kPrompt = 330;
  const std::vector<int> cuts[] = {{1, 2, 3, 63, 65, 70, 200, 256, 257, 258, 320, 329}, {100, 165, 255}};
  for (const AttentionCase& c : cases()) {
    const std::vector<std::byte> whole = run(c, {{kPrompt, kPrompt, 5}})[0];
    for (const std::vector<int>& ends : cuts) {
      int begin = 0;
      for (size_t i = 0; i <= ends.size(); ++i) {
        const int end = i < ends.size() ? ends[i] : kPrompt;
        EXPECT_EQ(run(c, {{end - begin, end, 5}})[0], rows_of(whole, c, begin, end))
            << describe(c) << ", tokens [" << begin << ", " << end << ")";
        begin = end;
      }
    }
  }
}

TEST(AttentionOrder, tokens_one_at_a_time_are_those_of_the_prompt) {
  constexpr int kPrompt = 270;
  for (const AttentionCase& c : cases()) {
    const std::vector<std::byte> whole = run(c, {{kPrompt, kPrompt, 8}})[0];
    for (int token = 1; token < kPrompt; token += token < 3 || (token > 62 && token < 66) || token > 254 ? 1 : 37) {
      EXPECT_EQ(run(c, {{1, token + 1, 8}})[0], rows_of(whole, c, token, token + 1)) << describe(c) << ", token " << token;
    }
  }
}

TEST(AttentionOrder, sequences_do_not_feel_their_batch) {
  const std::vector<AttentionSequence> seqs = {{1, 80, 1}, {40, 300, 2}, {2, 2, 3}, {1, 300, 4}, {90, 90, 5}, {3, 258, 6}};
  std::vector<AttentionSequence> reversed(seqs.rbegin(), seqs.rend());
  for (const AttentionCase& c : cases()) {
    const auto together = run(c, seqs), backwards = run(c, reversed, test_queue(3));
    for (size_t s = 0; s < seqs.size(); ++s) {
      EXPECT_EQ(run(c, {seqs[s]})[0], together[s]) << describe(c) << ", sequence " << s;
      EXPECT_EQ(backwards[seqs.size() - 1 - s], together[s]) << describe(c) << ", sequence " << s;
    }
  }
}

TEST(AttentionOrder, blocks_may_lie_anywhere) {
  const std::vector<AttentionSequence> seqs = {{1, 290, 1}, {30, 300, 2}};
  for (AttentionCase c : cases()) {
    const auto first = run(c, seqs);
    for (c.shuffle = 2; c.shuffle < 4; ++c.shuffle) EXPECT_EQ(run(c, seqs), first) << describe(c);
  }
}

TEST(AttentionOrder, it_holds_on_every_device_and_under_every_schedule) {
  const std::vector<AttentionSequence> seqs = {{1, 290, 1}, {20, 150, 2}, {2, 290, 1}};
  for (const AttentionCase& c : cases()) {
    const auto first = run(c, seqs);
    for (const unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      Queue queue = test_queue(1 + static_cast<int>(seed) % 3, seed % 2 ? 90 : 80);
      if (seed % 4 == 2) queue.shared_bytes = 99 * 1024;
      const auto again = run(c, seqs, queue);
      EXPECT_EQ(again, first) << describe(c) << ", schedule " << seed;
    }
    const auto row_bytes = static_cast<std::ptrdiff_t>(first[0].size());
    EXPECT_EQ(std::vector<std::byte>(first[2].end() - row_bytes, first[2].end()), first[0]) << describe(c);
  }
}

}  // namespace
}  // namespace pagoda::cuda

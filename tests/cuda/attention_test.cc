// Paged attention as the backend calls it: batches for both kernels, their agreement, and the memory that is planned for them.
#include <string>

#include "attention_reference.h"

namespace pagoda::cuda {
namespace {

constexpr double kTolerance = 5e-3;
constexpr DType kKvTypes[] = {DType::bf16, DType::f16, DType::f8_e4m3};

TEST(PagedAttention, serves_short_and_long_queries_in_one_batch) {
  for (const DType type : kKvTypes) {
    AttentionProblem problem({.kv_dtype = type, .seqs = {{1, 700, 1}, {5, 300, 2}, {1, 1, 3}, {70, 70, 4}, {1, 90, 5}}});
    problem.run(test_queue());
    EXPECT_LT(problem.worst_error(), kTolerance) << dtype_name(type);
  }
  AttentionProblem only_long({.seqs = {{9, 100, 1}, {9, 9, 2}}});
  only_long.run(test_queue());
  EXPECT_LT(only_long.worst_error(), kTolerance);
  AttentionProblem almost_long({.seqs = {{9, 100, 1}, {1, 9, 2}}});
  almost_long.run(test_queue());
  EXPECT_LT(almost_long.worst_error(), kTolerance);
}

TEST(PagedAttention, a_query_gives_the_same_bits_whichever_kernel_computes_it) {
  std::vector<AttentionCase> cases;
  for (const DType type : kKvTypes) {
    cases.push_back({.num_heads = 3, .kv_heads = 1, .head_dim = 64, .kv_dtype = type, .seqs = {}});
    cases.push_back({.num_heads = 16, .kv_heads = 1, .head_dim = 128, .kv_dtype = type, .sinks = true, .seqs = {}});
    cases.push_back({.num_heads = 2, .kv_heads = 1, .head_dim = 256, .kv_dtype = type, .soft_cap = 20, .seqs = {}});
    cases.push_back(
        {.num_heads = 4, .kv_heads = 2, .head_dim = 40, .block_size = 4, .kv_dtype = type, .window = 300, .seqs = {}});
  }
  for (AttentionCase& c : cases) {
    c.seqs = {{1, 65, 1}, {1, 256, 2}, {1, 600, 3}, {1, 1, 4}};
    AttentionProblem decoded(c);
    decoded.run(test_queue());
    c.seqs = {{3, 65, 1}, {7, 256, 2}, {2, 600, 3}};
    AttentionProblem prefilled(c);
    prefilled.run(test_queue());
    const auto row_bytes = static_cast<std::ptrdiff_t>(2 * c.num_heads * c.head_dim);
    for (size_t s = 0; s < c.seqs.size(); ++s) {
      const std::vector<std::byte> all = prefilled.output_of(s), last(all.end() - row_bytes, all.end());
      EXPECT_EQ(decoded.output_of(s), last) << dtype_name(c.kv_dtype) << ", heads of " << c.head_dim << ", sequence " << s;
    }
  }
}

TEST(PagedAttention, workspace_is_for_the_longest_context_and_bounded) {
  const AttentionArgs args{.num_heads = 32, .kv_heads = 8, .head_dim = 128};
  const size_t leaf = size_t{32} * 130 * 4;
  EXPECT_EQ(attention_workspace(0, 1000, args), 0u);
  EXPECT_EQ(attention_workspace(8, 256, args), 0u);
  EXPECT_EQ(attention_workspace(1, 257, args), 2 * leaf);
  EXPECT_EQ(attention_workspace(3, 1024, args), 12 * leaf);
  EXPECT_LE(attention_workspace(1 << 20, 8192, args), size_t{33} << 20);
  EXPECT_GE(attention_workspace(1 << 20, 8192, args), size_t{31} << 20);
  EXPECT_EQ(attention_workspace(1, 1 << 20, args), 4096 * leaf) << "one sequence always has room";
  AttentionArgs window = args;
  window.window = 256;
  EXPECT_EQ(attention_workspace(8, 1 << 20, window), 0u);
  window.window = 600;
  EXPECT_EQ(attention_workspace(1, 1 << 20, window), 4 * leaf);
  size_t before = 0;
  for (int64_t tokens = 1; tokens < 300; tokens += 7) {
    EXPECT_GE(attention_workspace(tokens, 9000, args), before);
    before = attention_workspace(tokens, 9000, args);
  }
}

TEST(PagedAttention, a_batch_without_tokens_is_no_launch) {
  const uint64_t before = emu::num_launches();
  paged_attention(test_queue(), {}, {}, {.num_heads = 1, .kv_heads = 1, .head_dim = 64}, {}, {}, nullptr);
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

}  // namespace
}  // namespace pagoda::cuda

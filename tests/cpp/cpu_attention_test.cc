// Paged attention against a dense double-precision reference: head groupings, block sizes, head sizes, cache types, windows,
// soft cap.
#include <gtest/gtest.h>

#include "cpu_support.h"

namespace pagoda {
namespace {

using test::AttentionCase;
using test::AttentionRun;

AttentionCase make_case(int num_heads, int kv_heads, int head_dim, std::vector<int> lengths) {
  AttentionCase test;
  test.args.num_heads = num_heads;
  test.args.kv_heads = kv_heads;
  test.args.head_dim = head_dim;
  test.args.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  test.lengths = std::move(lengths);
  return test;
}

void expect_reference(const AttentionCase& test, double tolerance) {
  for (const std::string& isa : test::available_isas()) {
    AttentionRun run(test, isa, 2);
    run.run_whole();
    const bool dots =
        (isa == "avx512" || isa == "amx") && test.kv_dtype != DType::f32;  // rounds queries and weights (with scales) to 8 bits
    EXPECT_LT(run.error(), dots ? (test.kv_dtype == DType::i8 ? 0.02 : 0.01) : tolerance)
        << isa << ", " << test.args.num_heads << " heads, " << test.args.kv_heads << " KV heads of " << test.args.head_dim
        << ", blocks of " << test.block_size << " " << dtype_name(test.kv_dtype);
  }
}

TEST(CpuAttention, multi_head_grouped_and_multi_query_match_the_dense_reference) {
  for (const auto& [num_heads, kv_heads] : {std::pair{4, 4}, {6, 2}, {9, 3}, {5, 1}}) {
    expect_reference(make_case(num_heads, kv_heads, 64, {1, 70, 131}), 2e-6);
  }
}

TEST(CpuAttention, a_group_larger_than_a_tile_of_rows_matches) { expect_reference(make_case(71, 1, 16, {5, 67}), 2e-6); }

TEST(CpuAttention, every_block_size_and_cache_type_matches) {
  for (const int block_size : {1, 2, 4, 8, 16, 32, 64, 128}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      AttentionCase test = make_case(6, 2, 32, {3, 64, 149});
      test.block_size = block_size;
      test.kv_dtype = dtype;
      expect_reference(test, 2e-6);
    }
  }
}

TEST(CpuAttention, every_head_size_matches) {
  for (const int head_dim : {1, 8, 15, 16, 40, 72, 80, 96, 100, 128, 192, 256}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      AttentionCase test = make_case(4, 2, head_dim, {83});
      test.kv_dtype = dtype;
      expect_reference(test, 4e-6);
    }
  }
}

TEST(CpuAttention, a_sliding_window_hides_older_keys) {
  for (const int window : {1, 2, 17, 64, 100, 1000}) {
    AttentionCase test = make_case(4, 2, 24, {90, 340});
    test.args.window = window;
    for (const DType dtype : {DType::f32, DType::i8}) {
      test.kv_dtype = dtype;
      expect_reference(test, 4e-6);
    }
  }
}

TEST(CpuAttention, the_soft_cap_bends_the_scores) {
  AttentionCase test = make_case(4, 2, 32, {40, 100});
  test.args.soft_cap = 2.5f;
  test.args.scale = 1.5f;
  for (const DType dtype : {DType::f32, DType::i8}) {
    test.kv_dtype = dtype;
    expect_reference(test, 4e-6);
  }
}

TEST(CpuAttention, contexts_over_many_partitions_match) { expect_reference(make_case(3, 1, 16, {1100}), 4e-6); }

TEST(CpuAttention, large_scores_do_not_overflow) {
  AttentionCase test = make_case(2, 1, 16, {300});
  test.args.scale = 30.0f;
  expect_reference(test, 5e-4);
}

TEST(CpuAttention, a_sink_takes_its_share_of_each_head_whether_it_dwarfs_the_scores_or_vanishes) {
  const float sinks[] = {0.0f, 1.5f, -3.0f, 60.0f, -60.0f, 1e4f, -1e4f, -std::numeric_limits<float>::infinity()};
  for (const float scale : {0.2f, 20.0f}) {
    for (const auto& [window, soft_cap] : {std::pair{0, 0.0f}, {33, 0.0f}, {0, 2.5f}, {100, 2.5f}}) {
      AttentionCase test = make_case(8, 2, 24, {3, 140});
      test.args.scale = scale;
      test.args.window = window;
      test.args.soft_cap = soft_cap;
      test.args.sinks = sinks;
      expect_reference(test, scale > 1 ? 3e-4 : 4e-6);
    }
  }
}

TEST(CpuAttention, a_sink_above_all_scores_leaves_nothing_and_one_below_them_everything) {
  const float above[] = {1e30f, 1e30f}, below[] = {-1e30f, -1e30f};
  for (const std::string& isa : test::available_isas()) {
    AttentionCase test = make_case(2, 1, 16, {300});
    AttentionRun without(test, isa, 2);
    test.args.sinks = above;
    AttentionRun under(test, isa, 2);
    test.args.sinks = below;
    AttentionRun over(test, isa, 2);
    for (AttentionRun* run : {&without, &under, &over}) run->run_whole();
    EXPECT_TRUE(test::same_bits(under.out()[0], std::vector<float>(300 * 32, 0.0f))) << isa;
    EXPECT_TRUE(test::same_bits(over.out()[0], without.out()[0])) << isa;
  }
}

TEST(CpuAttention, a_context_that_is_split_over_threads_counts_its_sink_once) {
  const float sinks[] = {2.0f, -1.0f};
  for (const std::string& isa : test::available_isas()) {
    for (const int window : {0, 600}) {
      AttentionCase test = make_case(2, 1, 16, {1100});
      test.args.window = window;
      test.args.sinks = sinks;
      AttentionRun run(test, isa, 3);
      run.step({{0, 0, 1099}});
      run.step({{0, 1099, 1100}});
      EXPECT_LT(run.error(), 4e-6) << isa << ", window " << window;
    }
  }
}

TEST(CpuAttention, a_decode_step_sees_what_earlier_steps_stored) {
  for (const std::string& isa : test::available_isas()) {
    const AttentionCase test = make_case(9, 3, 64, {40, 10, 400});
    AttentionRun run(test, isa, 2);
    run.step({{0, 0, 39}, {1, 0, 9}, {2, 0, 399}});
    run.step({{0, 39, 40}, {1, 9, 10}, {2, 399, 400}});
    EXPECT_LT(run.error(), 4e-6) << isa;
  }
}

TEST(CpuAttention, a_key_or_value_that_is_not_a_number_shows_in_all_that_see_it) {
  for (const std::string& isa : test::available_isas()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      for (const int column : {1 * 16 + 3, 2 * 16 + 3}) {  // of the key, of the value
        AttentionCase test = make_case(1, 1, 16, {100});
        test.kv_dtype = dtype;
        AttentionRun run(test, isa, 1);
        run.qkv_row(0, 70)[column] = std::numeric_limits<float>::quiet_NaN();
        run.run_whole();
        EXPECT_FALSE(std::isnan(run.out()[0][16 * 63])) << isa << " " << dtype_name(dtype);
        for (int p = 70; p < 100; ++p) {
          const float* row = run.out()[0].data() + static_cast<ptrdiff_t>(16) * p;
          EXPECT_TRUE(std::isnan(row[3])) << isa << " " << dtype_name(dtype) << ", column " << column << ", position " << p;
        }
      }
    }
  }
}

}  // namespace
}  // namespace pagoda

// A query's attention has the same bits however it is computed: alone, in chunks, in a batch, on any number of threads, with
// AVX2 or AVX-512.
#include <gtest/gtest.h>

#include <atomic>

#include "cpu_support.h"
#include "emulation/emulated_amx.h"

namespace pagoda {
namespace {

using test::AttentionCase;
using test::AttentionRun;

constexpr float kSinks[] = {0.5f, -4.0f, 9.0f, 0.0f, 1.0f, 2.0f};

/// A few shapes that reach every path: in place and copied tiles, small blocks, odd head sizes, windows, split contexts, sinks.
std::vector<AttentionCase> bitwise_cases() {
  std::vector<AttentionCase> cases;
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    for (const auto& [block_size, head_dim, window, soft_cap, sinks] : {std::tuple{16, 64, 0, 0.0f, false},
                                                                        {4, 40, 0, 0.0f, true},
                                                                        {32, 48, 70, 0.0f, false},
                                                                        {16, 16, 300, 3.0f, true},
                                                                        {64, 80, 0, 0.0f, false}}) {
      AttentionCase test;
      test.args.num_heads = 6;
      test.args.kv_heads = 2;
      test.args.head_dim = head_dim;
      test.args.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
      test.args.window = window;
      test.args.soft_cap = soft_cap;
      test.args.sinks = sinks ? kSinks : nullptr;
      test.kv_dtype = dtype;
      test.block_size = block_size;
      test.lengths = {67, 330};
      cases.push_back(test);
    }
  }
  return cases;
}

void expect_same(const AttentionCase& test, const AttentionRun& a, const AttentionRun& b, const std::string& what) {
  for (size_t s = 0; s < test.lengths.size(); ++s) {
    EXPECT_TRUE(test::same_bits(a.out()[s], b.out()[s]))
        << what << ", sequence " << s << ", head_dim " << test.args.head_dim << ", blocks of " << test.block_size << " "
        << dtype_name(test.kv_dtype) << ", window " << test.args.window;
  }
}

/// Passed with each instruction set of this machine by itself.
class CpuAttentionOfIsa : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Isas, CpuAttentionOfIsa, testing::ValuesIn(test::available_isas()),
                         [](const auto& isa) { return isa.param; });

TEST_P(CpuAttentionOfIsa, chunks_of_any_size_equal_the_whole_prompt) {
  for (const AttentionCase& test : bitwise_cases()) {
    AttentionRun whole(test, GetParam(), 2);
    whole.run_whole();
    for (const int chunk : {1, 2, 7, 16, 100}) {
      AttentionRun chunked(test, GetParam(), 2);
      for (size_t s = 0; s < test.lengths.size(); ++s) {
        for (int begin = 0; begin < test.lengths[s]; begin += chunk) {
          chunked.step({{static_cast<int>(s), begin, std::min(begin + chunk, test.lengths[s])}});
        }
      }
      expect_same(test, whole, chunked, str(GetParam(), ", chunks of ", chunk));
    }
  }
}

TEST_P(CpuAttentionOfIsa, a_batch_equals_each_sequence_alone) {
  for (const AttentionCase& test : bitwise_cases()) {
    AttentionRun together(test, GetParam(), 2), alone(test, GetParam(), 2);
    together.run_whole();
    alone.step({{1, 0, 330}});
    alone.step({{0, 0, 67}});
    expect_same(test, together, alone, GetParam());
  }
}

TEST_P(CpuAttentionOfIsa, any_number_of_threads_gives_the_same_bits) {
  for (const AttentionCase& test : bitwise_cases()) {
    AttentionRun one(test, GetParam(), 1);
    one.step({{0, 0, 66}, {1, 0, 329}});
    one.step({{0, 66, 67}, {1, 329, 330}});
    for (const int num_threads : {2, 3, 5}) {
      AttentionRun more(test, GetParam(), num_threads);
      more.step({{0, 0, 66}, {1, 0, 329}});
      more.step({{0, 66, 67}, {1, 329, 330}});
      expect_same(test, one, more, str(GetParam(), ", ", num_threads, " threads"));
    }
  }
}

TEST_P(CpuAttentionOfIsa, any_block_size_gives_the_same_bits) {
  for (AttentionCase test : bitwise_cases()) {
    AttentionRun first(test, GetParam(), 2);
    first.run_whole();
    for (const int block_size : {1, 8, 64}) {
      test.block_size = block_size;
      AttentionRun other(test, GetParam(), 2);
      other.run_whole();
      expect_same(test, first, other, GetParam());
    }
  }
}

TEST(CpuAttentionBitwise, avx2_and_avx512_give_the_same_bits_with_an_f32_cache) {
  std::vector<std::string> isas = test::available_isas();
  std::erase(isas, "portable");  // it has no fused multiply-add
  for (const AttentionCase& test : bitwise_cases()) {
    if (test.kv_dtype != DType::f32) continue;  // avx512 multiplies the other caches in pairs
    for (size_t i = 1; i < isas.size(); ++i) {
      AttentionRun narrow(test, isas[0], 2), wide(test, isas[i], 2);
      narrow.run_whole();
      wide.run_whole();
      expect_same(test, narrow, wide, isas[0] + " and " + isas[i]);
    }
  }
}

/// Lets sequences that begin alike go on: token by token at once, then with some tokens each, one of them with many.
AttentionRun run_shared(const AttentionCase& test, const std::string& isa, int num_threads, const cpu::Kernels* kernels) {
  AttentionRun run(test, isa, num_threads);
  if (kernels) run.attend_with(*kernels);
  const auto length = [&](int s) { return test.lengths[static_cast<size_t>(s)]; };
  const auto num_seqs = static_cast<int>(test.lengths.size());
  for (int s = 0; s < num_seqs; ++s) {
    const bool stored = test.same_blocks && test.leader(s) != s;
    const int begin = stored ? test.shared : 0;
    if (begin < length(s) - 42) run.step({{s, begin, length(s) - 42}});
  }
  for (const auto& [from, to] : {std::pair{42, 41}, {41, 40}}) {
    std::vector<AttentionRun::Span> spans;
    for (int s = 0; s < num_seqs; ++s) spans.push_back({s, length(s) - from, length(s) - to});
    run.step(spans);
  }
  std::vector<AttentionRun::Span> last;
  for (int s = 0; s < num_seqs; ++s) last.push_back({s, length(s) - 40, s == 1 ? length(s) : length(s) - 40 + s % 3 + 1});
  run.step(last);
  return run;
}

/// The bitwise cases with contexts of which all but the last begin alike, over one partition or two, in the same blocks or in
/// copies: 3, whose rows are few enough to be read in place or in chains, 6, or 3 and another 3, with 3 or 5 queries to a key.
/// One stands at the end of the shared positions.
std::vector<AttentionCase> sharing_cases(bool same_blocks) {
  std::vector<AttentionCase> cases = bitwise_cases();
  for (size_t i = 0; i < cases.size(); ++i) {
    AttentionCase& test = cases[i];
    const int shared = test.args.head_dim == 64 ? 512 : 320;
    test.lengths = {shared + 51, shared + 200, shared + 42};
    if (i % 3) test.lengths.insert(test.lengths.end(), {shared + 45, shared + 43, shared + 48});
    if (i % 2 && !test.args.sinks) test.args.num_heads = 10;
    test.num_groups = i % 3 == 2 ? 2 : 1;
    test.num_sharing = static_cast<int>(test.lengths.size()) / test.num_groups;
    test.lengths.push_back(380);
    test.shared = shared;
    test.same_blocks = same_blocks;
  }
  return cases;
}

void expect_same_behind(const AttentionCase& test, const AttentionRun& a, const AttentionRun& b, const std::string& what) {
  for (size_t s = 0; s < test.lengths.size(); ++s) {
    const int begin = static_cast<int>(s) < test.num_sharing * test.num_groups ? test.shared * test.out_cols() : 0;
    const std::vector<float> own_a(a.out()[s].begin() + begin, a.out()[s].end());
    const std::vector<float> own_b(b.out()[s].begin() + begin, b.out()[s].end());
    EXPECT_TRUE(test::same_bits(own_a, own_b)) << what << ", sequence " << s << ", head_dim " << test.args.head_dim
                                               << ", blocks of " << test.block_size << " " << dtype_name(test.kv_dtype);
  }
}

TEST_P(CpuAttentionOfIsa, a_prefix_in_the_same_blocks_gives_the_bits_of_copies) {
  const std::vector<AttentionCase> copies = sharing_cases(false), same = sharing_cases(true);
  for (size_t i = 0; i < same.size(); ++i) {
    const AttentionRun expected = run_shared(copies[i], GetParam(), 2, nullptr);
    for (const int num_threads : {1, 6}) {
      const AttentionRun found = run_shared(same[i], GetParam(), num_threads, nullptr);
      expect_same_behind(same[i], expected, found, str(GetParam(), ", ", num_threads, " threads"));
    }
  }
}

std::atomic<int> num_prefix_tasks{0};
cpu::Kernels counted_kernels;

TEST(CpuAttentionBitwise, a_prefix_in_the_same_blocks_is_attended_to_together) {
  counted_kernels = cpu::kernels(cpu::Isa::portable);
  cpu::Kernels counting = counted_kernels;
  counting.attention = [](const cpu::AttentionJob& job, const cpu::AttentionTask& task, float* scratch) {
    if (task.tokens) ++num_prefix_tasks;
    counted_kernels.attention(job, task, scratch);
  };
  AttentionCase test = bitwise_cases()[0];
  test.lengths = {320, 320, 320, 320};
  test.shared = 256;
  test.num_sharing = 4;
  for (const bool same_blocks : {false, true}) {
    test.same_blocks = same_blocks;
    AttentionRun run(test, "portable", 2);
    run.attend_with(counting);
    for (int s = 0; s < 4; ++s) run.step({{s, same_blocks && s > 0 ? 256 : 0, 319}});
    num_prefix_tasks = 0;
    run.step({{0, 319, 320}, {1, 319, 320}, {2, 319, 320}, {3, 319, 320}});
    EXPECT_EQ(num_prefix_tasks, same_blocks ? 2 * test.args.kv_heads : 0);  // 12 rows in two tiles, one for each thread
  }
}

#if defined(__x86_64__)
TEST(CpuAttentionBitwise, a_shared_prefix_has_the_bits_of_copies_with_emulated_tiles) {
  if (!cpu::isa_supported(cpu::Isa::avx512)) GTEST_SKIP() << "the emulation needs AVX-512";
  const cpu::Kernels emulated = cpu::emulated_amx_attention();
  const std::vector<AttentionCase> copies = sharing_cases(false), same = sharing_cases(true);
  for (size_t i = 0; i < same.size(); ++i) {
    const AttentionRun expected = run_shared(copies[i], "avx512", 2, &emulated);
    expect_same_behind(same[i], expected, run_shared(same[i], "avx512", 2, &emulated), "emulated");
  }
}

TEST(CpuAttentionBitwise, emulated_tiles_give_chunks_and_the_whole_the_bits_of_the_processors) {
  if (!cpu::isa_supported(cpu::Isa::avx512)) GTEST_SKIP() << "the emulation needs AVX-512";
  const cpu::Kernels emulated = cpu::emulated_amx_attention();
  for (const AttentionCase& test : bitwise_cases()) {
    AttentionRun whole(test, "avx512", 2);
    whole.attend_with(emulated);
    whole.run_whole();
    for (const int chunk : {2, 7, 100}) {  // chains, and tiles of some rows
      AttentionRun chunked(test, "avx512", 2);
      chunked.attend_with(emulated);
      for (size_t s = 0; s < test.lengths.size(); ++s) {
        for (int begin = 0; begin < test.lengths[s]; begin += chunk) {
          chunked.step({{static_cast<int>(s), begin, std::min(begin + chunk, test.lengths[s])}});
        }
      }
      expect_same(test, whole, chunked, "emulated chunks of " + std::to_string(chunk));
    }
    if (!cpu::isa_supported(cpu::Isa::amx)) continue;
    AttentionRun real(test, "amx", 2);
    real.run_whole();
    expect_same(test, whole, real, "the processor's tiles");
  }
}
#endif

}  // namespace
}  // namespace pagoda

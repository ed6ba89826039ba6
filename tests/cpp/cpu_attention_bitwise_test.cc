// A query's attention has the same bits however it is computed: alone, in chunks, in a batch, on any number of threads, with
// AVX2 or AVX-512.
#include <gtest/gtest.h>

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

TEST(CpuAttentionBitwise, chunks_of_any_size_equal_the_whole_prompt) {
  for (const std::string& isa : test::available_isas()) {
    for (const AttentionCase& test : bitwise_cases()) {
      AttentionRun whole(test, isa, 2);
      whole.run_whole();
      for (const int chunk : {1, 2, 7, 16, 100}) {
        AttentionRun chunked(test, isa, 2);
        for (size_t s = 0; s < test.lengths.size(); ++s) {
          for (int begin = 0; begin < test.lengths[s]; begin += chunk) {
            chunked.step({{static_cast<int>(s), begin, std::min(begin + chunk, test.lengths[s])}});
          }
        }
        expect_same(test, whole, chunked, str(isa, ", chunks of ", chunk));
      }
    }
  }
}

TEST(CpuAttentionBitwise, a_batch_equals_each_sequence_alone) {
  for (const std::string& isa : test::available_isas()) {
    for (const AttentionCase& test : bitwise_cases()) {
      AttentionRun together(test, isa, 2), alone(test, isa, 2);
      together.run_whole();
      alone.step({{1, 0, 330}});
      alone.step({{0, 0, 67}});
      expect_same(test, together, alone, isa);
    }
  }
}

TEST(CpuAttentionBitwise, any_number_of_threads_gives_the_same_bits) {
  for (const std::string& isa : test::available_isas()) {
    for (const AttentionCase& test : bitwise_cases()) {
      AttentionRun one(test, isa, 1);
      one.step({{0, 0, 66}, {1, 0, 329}});
      one.step({{0, 66, 67}, {1, 329, 330}});
      for (const int num_threads : {2, 3, 5}) {
        AttentionRun more(test, isa, num_threads);
        more.step({{0, 0, 66}, {1, 0, 329}});
        more.step({{0, 66, 67}, {1, 329, 330}});
        expect_same(test, one, more, str(isa, ", ", num_threads, " threads"));
      }
    }
  }
}

TEST(CpuAttentionBitwise, any_block_size_gives_the_same_bits) {
  for (const std::string& isa : test::available_isas()) {
    for (AttentionCase test : bitwise_cases()) {
      AttentionRun first(test, isa, 2);
      first.run_whole();
      for (const int block_size : {1, 8, 64}) {
        test.block_size = block_size;
        AttentionRun other(test, isa, 2);
        other.run_whole();
        expect_same(test, first, other, isa);
      }
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

#if defined(__x86_64__)
TEST(CpuAttentionBitwise, emulated_tiles_give_chunks_and_the_whole_the_bits_of_the_processors) {
  if (!cpu::isa_supported(cpu::Isa::avx512)) GTEST_SKIP() << "the emulation needs AVX-512";
  const cpu::Kernels emulated = cpu::emulated_amx_attention();
  for (const AttentionCase& test : bitwise_cases()) {
    AttentionRun whole(test, "avx512", 2);
    whole.attend_with(emulated);
    whole.run_whole();
    for (const int chunk : {2, 7}) {  // chains, and tiles of some rows
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

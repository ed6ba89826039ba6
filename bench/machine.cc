// What this machine can do at most, the limits that benchmarks are compared with: the speed of reading memory, and the peaks of
// multiply-add in f32, bf16 and 8 bits from registers, each with every thread. One JSON object per line; the median of the
// rounds.
//
//   machine [threads=2] [rounds=5] [mbytes per thread=256]
#include <immintrin.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kAccumulators = 10;  // enough to hide the latency of two units
constexpr int64_t kIterations = 16'000'000;

volatile uint64_t sink;

/// Seconds from the first thread's start to the last one's end.
template <typename Body>
double together(int threads, const Body& body) {
  std::barrier gate(threads);
  std::vector<Clock::time_point> begins(static_cast<size_t>(threads)), ends(static_cast<size_t>(threads));
  {
    std::vector<std::jthread> team;
    for (int i = 0; i < threads; ++i) {
      team.emplace_back([&, i] {
        gate.arrive_and_wait();
        begins[static_cast<size_t>(i)] = Clock::now();
        body(i);
        ends[static_cast<size_t>(i)] = Clock::now();
      });
    }
  }
  return std::chrono::duration<double>(*std::ranges::max_element(ends) - *std::ranges::min_element(begins)).count();
}

void read_all(const std::vector<uint64_t>& words) {
  uint64_t lanes[16] = {};
  for (size_t i = 0; i + 16 <= words.size(); i += 16) {
    for (size_t j = 0; j < 16; ++j) lanes[j] ^= words[i + j];
  }
  for (const uint64_t lane : lanes) sink = sink ^ lane;
}

__attribute__((target("avx512f"))) void f32_avx512() {
  __m512 sums[kAccumulators], one = _mm512_set1_ps(1);
  for (int j = 0; j < kAccumulators; ++j)
    sums[j] = _mm512_set1_ps(static_cast<float>(j));  // all different, or the compiler keeps one
  for (int64_t i = 0; i < kIterations; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kAccumulators; ++j) sums[j] = _mm512_fmadd_ps(one, one, sums[j]);
  }
  for (const __m512& sum : sums) sink = sink ^ static_cast<uint64_t>(_mm512_cvtss_f32(sum));
}

__attribute__((target("avx2,fma"))) void f32_avx2() {
  __m256 sums[kAccumulators], one = _mm256_set1_ps(1);
  for (int j = 0; j < kAccumulators; ++j)
    sums[j] = _mm256_set1_ps(static_cast<float>(j));  // all different, or the compiler keeps one
  for (int64_t i = 0; i < kIterations; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kAccumulators; ++j) sums[j] = _mm256_fmadd_ps(one, one, sums[j]);
  }
  for (const __m256& sum : sums) sink = sink ^ static_cast<uint64_t>(_mm256_cvtss_f32(sum));
}

__attribute__((target("avx512f,avx512bf16"))) void bf16_avx512() {
  __m512 sums[kAccumulators];
  const __m512bh ones = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1), _mm512_set1_ps(1));
  for (int j = 0; j < kAccumulators; ++j)
    sums[j] = _mm512_set1_ps(static_cast<float>(j));  // all different, or the compiler keeps one
  for (int64_t i = 0; i < kIterations; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kAccumulators; ++j) sums[j] = _mm512_dpbf16_ps(sums[j], ones, ones);
  }
  for (const __m512& sum : sums) sink = sink ^ static_cast<uint64_t>(_mm512_cvtss_f32(sum));
}

__attribute__((target("avx512f,avx512vnni"))) void int8_avx512() {
  __m512i sums[kAccumulators], ones = _mm512_set1_epi8(1);
  for (int j = 0; j < kAccumulators; ++j) sums[j] = _mm512_set1_epi32(j);  // all different, or the compiler keeps one
  for (int64_t i = 0; i < kIterations; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kAccumulators; ++j) sums[j] = _mm512_dpbusd_epi32(sums[j], ones, ones);
  }
  for (const __m512i& sum : sums) sink = sink ^ static_cast<uint64_t>(_mm512_cvtsi512_si32(sum));
}

/// The least that AVX2 can take for products of bytes: two of them summed in 16 bits, and that added.
__attribute__((target("avx2"))) void int8_avx2() {
  __m256i sums[kAccumulators], ones = _mm256_set1_epi8(1);
  for (int j = 0; j < kAccumulators; ++j)
    sums[j] = _mm256_set1_epi16(static_cast<short>(j));  // all different, or the compiler keeps one
  for (int64_t i = 0; i < kIterations; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kAccumulators; ++j) {
      asm("" : "+x"(ones));  // or the product is taken out of the loop
      sums[j] = _mm256_add_epi16(sums[j], _mm256_maddubs_epi16(ones, ones));
    }
  }
  for (const __m256i& sum : sums) sink = sink ^ static_cast<uint64_t>(_mm256_extract_epi16(sum, 0));
}

template <typename Body>
void print(const char* name, const char* unit, double work, int threads, int rounds, const Body& body) {
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) seconds.push_back(together(threads, body));
  std::ranges::sort(seconds);
  std::printf("{\"case\": \"%s\", \"unit\": \"%s\", \"value\": %.2f}\n", name, unit,
              work * threads / seconds[seconds.size() / 2] * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, rounds = argc > 2 ? std::atoi(argv[2]) : 5;
  const int64_t bytes = (argc > 3 ? std::atoll(argv[3]) : 256) << 20;
  if (threads < 1 || rounds < 1 || bytes < 1) {
    std::fprintf(stderr, "machine: threads, rounds and mbytes must be at least 1\n");
    return 2;
  }
  const std::vector<std::vector<uint64_t>> memory(static_cast<size_t>(threads),
                                                  std::vector<uint64_t>(static_cast<size_t>(bytes) / 8, 1));
  print("read_bandwidth", "GB/s", static_cast<double>(bytes), threads, rounds,
        [&](int i) { read_all(memory[static_cast<size_t>(i)]); });
  constexpr double kSteps = 2.0 * kAccumulators * kIterations;
  if (__builtin_cpu_supports("avx512f")) {
    print("f32_peak", "GOP/s", kSteps * 16, threads, rounds, [](int) { f32_avx512(); });
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    print("f32_peak", "GOP/s", kSteps * 8, threads, rounds, [](int) { f32_avx2(); });
  }
  if (__builtin_cpu_supports("avx512bf16"))
    print("bf16_peak", "GOP/s", kSteps * 32, threads, rounds, [](int) { bf16_avx512(); });
  if (__builtin_cpu_supports("avx512vnni"))
    print("int8_peak", "GOP/s", kSteps * 64, threads, rounds, [](int) { int8_avx512(); });
  else if (__builtin_cpu_supports("avx2"))
    print("int8_peak", "GOP/s", kSteps * 32, threads, rounds, [](int) { int8_avx2(); });
  return 0;
}

// Times the CPU matrix product on the shapes of a small model and compares it with what the machine can do: a plain read of the
// same bytes (decode) and 8-bit dot products from registers are the ceilings. Weights rotate through more memory than the
// caches hold.
//
//   linear_bench [format=q4_1|all] [threads=2] [isa=auto] [mbytes=200] [shape=all] [activations=auto|int8|mixed|bf16|int16]
//       [rows=all, or one of the numbers that all prints]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend/cpu/linear.h"

namespace {

using namespace pagoda;
using Clock = std::chrono::steady_clock;

struct Case {
  const char* name;
  int64_t n, k;
};

double seconds_of(const auto& body) {
  const auto begin = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Random bytes are valid blocks of nearly every format but may hold NaN scales; a plain pattern keeps all values finite.
std::vector<std::byte> stored_weight(WeightFormat format, const Case& shape) {
  std::vector<std::byte> bytes(static_cast<size_t>(shape.n) * weight_row_bytes(format, shape.k));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(0x10 + i * 7 % 23);
  if (format == WeightFormat::int4) {
    constexpr float kZero = 8;
    for (size_t i = 0; i < bytes.size(); i += weight_format_info(format).block_bytes) {
      std::memcpy(&bytes[i + sizeof(float)], &kZero, sizeof kZero);
    }
  }
  return bytes;
}

/// Reads all weights once with every thread; the bound of decode.
double read_seconds(ThreadPool& pool, const std::vector<Weight>& weights) {
  std::vector<uint64_t> sums(static_cast<size_t>(pool.num_threads()) * 8);
  constexpr size_t kChunk = size_t{128} << 10;
  return seconds_of([&] {
    for (const Weight& weight : weights) {
      const std::byte* bytes = cpu::PackedWeight::of(weight).bytes.get();
      const size_t chunks = (weight.bytes + kChunk - 1) / kChunk;
      pool.run(static_cast<int64_t>(chunks), [&](int64_t i, int thread) {
        const size_t begin = static_cast<size_t>(i) * kChunk, end = std::min(begin + kChunk, weight.bytes);
        uint64_t lanes[8] = {};
        for (size_t at = begin; at + 64 <= end; at += 64) {
          uint64_t line[8];
          std::memcpy(line, bytes + at, 64);
          for (int j = 0; j < 8; ++j) lanes[j] ^= line[j];
        }
        for (int j = 0; j < 8; ++j) sums[static_cast<size_t>(thread) * 8] ^= lanes[j];
      });
    }
  });
}

/// `shape.k` is rounded up to the format's block.
void run_case(const cpu::LinearKernels& kernels, ThreadPool& pool, WeightFormat format, Case shape, size_t ring_bytes,
              int64_t rows) {
  const int64_t block = weight_format_info(format).block_values;
  shape.k = (shape.k + block - 1) / block * block;
  const std::vector<std::byte> stored = stored_weight(format, shape);
  const WeightPart part{format, shape.n, shape.k, stored.data(), {}, nullptr};
  const size_t copies = std::max<size_t>(2, ring_bytes / cpu::packed_bytes({&part, 1}));
  cpu::PackMemory memory;
  std::vector<Weight> weights;
  const double pack_seconds = seconds_of([&] {
    for (size_t i = 0; i < copies; ++i) weights.push_back(cpu::pack_weight({&part, 1}, pool, memory));
  });
  const double total_bytes = static_cast<double>(copies * weights[0].bytes);
  double read = 1e9;
  for (int round = 0; round < 5; ++round) read = std::min(read, read_seconds(pool, weights));
  std::printf("%-8s N=%-6lld K=%-5lld  pack %5.2f GB/s  read %5.1f GB/s\n", shape.name, static_cast<long long>(shape.n),
              static_cast<long long>(shape.k), total_bytes / pack_seconds * 1e-9, total_bytes / read * 1e-9);
  for (const int64_t m : {1, 2, 4, 8, 16, 64, 512}) {
    if (rows > 0 && m != rows) continue;
    std::vector<float> x(static_cast<size_t>(m * shape.k)), out(static_cast<size_t>(m * shape.n));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8.0f;
    std::vector<std::byte> workspace(cpu::linear_workspace(m, shape.n, shape.k, {&format, 1}) + 64);
    void* scratch = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 63) / 64 * 64);
    const Tensor out_view = Tensor::dense(out.data(), DType::f32, {m, shape.n}),
                 x_view = Tensor::dense(x.data(), DType::f32, {m, shape.k});
    const double flops = 2.0 * static_cast<double>(m * shape.n * shape.k);
    const size_t calls = std::clamp<size_t>(static_cast<size_t>(1.5e11 / flops), 2, copies);
    double best = 1e9;
    for (int round = 0; round < 5; ++round) {
      const double seconds = seconds_of([&] {
        for (size_t i = 0; i < calls; ++i) cpu::linear(kernels, pool, out_view, x_view, weights[i], nullptr, scratch);
      });
      best = std::min(best, seconds / static_cast<double>(calls));
    }
    std::printf("  M=%-4lld %9.1f us  %7.1f GOP/s  %5.1f GB/s (%3.0f %% of read)\n", static_cast<long long>(m), best * 1e6,
                flops / best * 1e-9, static_cast<double>(weights[0].bytes) / best * 1e-9,
                100 * read / static_cast<double>(copies) / best);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "q4_1";
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  const cpu::Isa isa = cpu::parse_isa(argc > 3 ? argv[3] : "auto");
  const size_t ring_bytes = (argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 200) << 20;
  const std::string only = argc > 5 ? argv[5] : "all";
  const cpu::LinearKernels kernels = cpu::linear_kernels(isa, cpu::parse_input_precision(argc > 6 ? argv[6] : "auto", isa));
  const int64_t rows = argc > 7 ? std::atoll(argv[7]) : 0;
  ThreadPool pool(threads);
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<WeightFormat>(i);
    if (name != "all" && name != weight_format_info(format).name) continue;
    std::printf("%s, %s, %d threads\n", weight_format_info(format).name, cpu::isa_name(isa), threads);
    for (const Case& shape : {Case{"qkv", 960, 576}, Case{"out", 576, 576}, Case{"gate_up", 3072, 576}, Case{"down", 576, 1536},
                              Case{"lm_head", 49152, 576}}) {
      if (only == "all" || only == shape.name) run_case(kernels, pool, format, shape, ring_bytes, rows);
    }
  }
  return 0;
}

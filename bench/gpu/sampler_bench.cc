// The fused sampler as a step calls it: upload of the rows' parameters, all passes over the logits, download of the results.
// Bound by reading the logits once.
#include "cuda/sampler.h"
#include "families.h"

namespace pagoda::bench {
namespace {

struct Kind {
  const char* name;
  SampleRow row;
};

std::vector<Kind> kinds() {
  return {{"greedy", {.temperature = 0}},
          {"temperature 0.8", {.temperature = 0.8f}},
          {"temperature 0.8, top-k 50, top-p 0.9", {.temperature = 0.8f, .top_p = 0.9f, .top_k = 50}},
          {"temperature 1, top-p 0.95", {.temperature = 1, .top_p = 0.95f}},
          {"greedy, 5 logprobs", {.temperature = 0, .num_top = 5}}};
}

}  // namespace

void bench_sampler(BenchDevice& device, Report& report) {
  const std::vector<int> batches = device.smoke() ? std::vector{1, 3} : std::vector{1, 64, 256};
  const std::vector<int> vocabularies = device.smoke() ? std::vector{2000} : std::vector{128256, 151936};
  for (const int vocab : vocabularies) {
    cuda::Sampler sampler([&](size_t bytes) { return cuda::DeviceMemory().allocate(bytes); });
    for (const int num_rows : batches) {
      const Tensor logits = device.random_tensor(DType::f32, num_rows, vocab);
      for (const Kind& kind : kinds()) {
        SampleBatch batch;
        batch.vocab_size = vocab;
        for (int r = 0; r < num_rows; ++r) {
          batch.rows.push_back(kind.row);
          batch.rows.back().key = static_cast<uint64_t>(r);
        }
        batch.max_top = std::max(0, kind.row.num_top);
        SampleResult result;
        const Timing timing =
            device.time_direct([&](int) { sampler.launch(device.queue(), logits, batch); }, [&] { sampler.collect(result); });
        report.add("sampler", {field("batch", num_rows), field("vocabulary", vocab), field("kind", kind.name)},
                   {4.0 * num_rows * vocab, 0}, timing);
      }
      device.clear();
    }
  }
}

}  // namespace pagoda::bench

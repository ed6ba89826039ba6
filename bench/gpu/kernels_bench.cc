// Times the CUDA kernels on the shapes of Llama-3.1-8B and writes JSON: the device, the ceilings measured in the same run, and
// for each case how much of its ceiling was reached. Needs a GPU; under the emulation, with --smoke, it only tries itself out.
//
//   gpu_kernels_bench [--only=family] [--out=file] [--commit=hash] [--libraries=folder:folder] [--cache=folder] [--smoke]
#include <cstdio>
#include <exception>

#include "families.h"

namespace {

using namespace pagoda;
using namespace pagoda::bench;

void run(const Settings& settings) {
  BenchDevice device(settings.smoke);
  const cuda::Gpu& gpu = device.gpu();
  Report report({field("benchmark", "kernels"), field("device", gpu.info.name), field("isa", gpu.info.isa),
                 field("multiprocessors", gpu.queue.num_multiprocessors),
                 field("memory_bytes", static_cast<int64_t>(gpu.info.total_bytes)), field("driver", gpu.driver_version),
                 field("commit", settings.commit)},
                !settings.smoke);
  measure_ceilings(device, report, settings);
  const auto wanted = [&](const char* family) {
    return std::string_view(family).find(settings.only) != std::string_view::npos;
  };
  if (wanted("decode_attention")) bench_decode_attention(device, report);
  if (wanted("prefill_attention")) bench_prefill_attention(device, report);
  if (wanted("sampler")) bench_sampler(device, report);
  if (wanted("rows")) bench_rows(device, report);
  if (wanted("linear")) bench_linear(device, report, settings);
  report.write(settings.out);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Settings settings = read_settings(argc, argv);
    if (const std::string reason = cuda_unavailable(); !reason.empty()) throw DeviceError("nothing can be measured: " + reason);
    run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

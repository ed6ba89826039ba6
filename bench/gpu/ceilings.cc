// What the device can do at best, by other people's code: the denominators of everything else.
#include <algorithm>

#include "cuda/cublaslt.h"
#include "cuda/lt_matmul.h"
#include "families.h"

namespace pagoda::bench {
namespace {

constexpr size_t kMaxAlgorithms = 8;

double measure_copy(BenchDevice& device, Report& report) {
  const size_t bytes = device.smoke() ? size_t{1} << 20 : size_t{4} << 30;
  void* from = device.random(bytes, Fill::bytes);
  void* to = device.memory(bytes);
  const Timing timing = device.time(1, [&](int) {
    cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device.queue().stream), "copying");
  });
  device.clear();
  const double moved = 2.0 * static_cast<double>(bytes);
  report.add_plain("ceiling", {field("what", "copy, bytes read and written"), field("bytes", static_cast<int64_t>(bytes))},
                   {field("microseconds", timing.microseconds), field("spread", timing.spread),
                    field("gbytes_per_second", moved / timing.microseconds * 1e-3)});
  return moved / (timing.microseconds * 1e-6);
}

double measure_matmul(BenchDevice& device, Report& report, const Settings& settings) {
  const int64_t n = device.smoke() ? 64 : 8192;
  cuda::LtMatmul matmul(cuda::load_cublaslt(settings.library_folders));
  cuda::GemmOperands operands;
  operands.x = device.random_tensor(DType::bf16, n, n);
  operands.out = Tensor::dense(device.memory(static_cast<size_t>(n * n) * 2), DType::bf16, {n, n});
  operands.weight = {cuda::MatrixFormat::bf16, n, n, n, device.random_tensor(DType::bf16, n, n).data, nullptr};
  void* workspace = device.memory(cuda::LtMatmul::workspace_bytes(cuda::MatrixFormat::bf16, n, n));
  Timing best{1e30, 0};
  const std::vector<cuda::lt::Algorithm> algorithms = matmul.candidates(operands, cuda::lt::kReductionNone);
  for (size_t i = 0; i < std::min(kMaxAlgorithms, algorithms.size()); ++i) {
    if (!matmul.run(device.queue(), operands, algorithms[i], workspace)) continue;
    const Timing timing = device.time(1, [&](int) { matmul.run(device.queue(), operands, algorithms[i], workspace); });
    if (timing.microseconds < best.microseconds) best = timing;
  }
  device.clear();
  if (best.microseconds == 1e30) throw DeviceError("cuBLASLt proposes no algorithm for the largest product");
  const double flops = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  report.add_plain("ceiling", {field("what", "bf16 product by cuBLASLt"), field("size", n)},
                   {field("microseconds", best.microseconds), field("spread", best.spread),
                    field("tflops_per_second", flops / best.microseconds * 1e-6)});
  return flops / (best.microseconds * 1e-6);
}

}  // namespace

void measure_ceilings(BenchDevice& device, Report& report, const Settings& settings) {
  report.ceilings.copy_bytes_per_second = measure_copy(device, report);
  try {
    report.ceilings.matmul_flops_per_second = measure_matmul(device, report, settings);
  } catch (const DeviceError& error) {
    device.clear();
    report.add_plain("ceiling", {field("what", "bf16 product by cuBLASLt"), field("missing", error.what())}, {});
  }
}

}  // namespace pagoda::bench

// The families of kernels that kernels_bench.cc measures, one file each. Every one adds its rows to the report and gives its
// memory back. Shapes are those of Llama-3.1-8B; with device.smoke() they are tiny.
#pragma once

#include "bench_device.h"
#include "report.h"
#include "settings.h"

namespace pagoda::bench {

/// Sets report.ceilings: a copy of gigabytes, and a bf16 product of 8192 x 8192 x 8192 by the fastest algorithm that cuBLASLt
/// proposes.
void measure_ceilings(BenchDevice& device, Report& report, const Settings& settings);

void bench_decode_attention(BenchDevice& device, Report& report);
void bench_prefill_attention(BenchDevice& device, Report& report);
void bench_sampler(BenchDevice& device, Report& report);
/// Norms, rotation with KV store, embedding, activation, copies of blocks.
void bench_rows(BenchDevice& device, Report& report);
/// Products with weights: our own kernel in every format; cuBLASLt as tuned, with and without the bits that do not depend on
/// the batch.
void bench_linear(BenchDevice& device, Report& report, const Settings& settings);

}  // namespace pagoda::bench

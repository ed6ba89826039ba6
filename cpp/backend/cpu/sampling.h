// The fused sampler on the CPU: bias and bans, penalties, temperature, top-k, top-p, min-p, draw, logprobs. One task per row.
// Called by CpuBackend::sample. The arithmetic is defined bit for bit (sampling_math.h), so every ISA and every other backend
// draws the same token from the same logits.
#pragma once

#include "backend/cpu/sampling_kernels.h"
#include "backend/sample_batch.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

/// Scratch of the sampler, kept between steps: per thread a few arrays of the vocabulary's size. Owned by CpuBackend.
class SamplingScratch {
 public:
  struct Row {
    std::vector<float> values;     ///< [vocab] logits after everything up to the temperature
    std::vector<uint64_t> masses;  ///< [vocab]
    std::vector<uint16_t> bins;    ///< [vocab]
    std::vector<uint32_t> counts;  ///< [kNumBins] values per bin
    std::vector<uint64_t> sums;    ///< [kNumBins] mass per bin
    std::vector<uint32_t> keys;    ///< members of one bin
    std::vector<uint64_t> best;    ///< heap of the best logits
  };
  /// Bytes of one thread's arrays.
  static size_t row_bytes(int64_t vocab_size);
  void prepare(int num_threads, int64_t vocab_size);
  Row& row(int thread) { return rows_[static_cast<size_t>(thread)]; }

 private:
  std::vector<Row> rows_;
};

/// Samples every row of logits[R, vocab] (f32, rows may be strided; left unchanged). Rows are independent tasks. Allocates
/// nothing once scratch and result have grown to their size.
void sample(const SamplingKernels& kernels, ThreadPool& pool, SamplingScratch& scratch, const Tensor& logits,
            const SampleBatch& batch, SampleResult& result);

}  // namespace pagoda::cpu

// The products of a mixture of experts: each row of the input times the matrix of the expert it was routed to. Shares the
// kernels, the packing and the prepared input with linear.h. Called by CpuBackend.
#pragma once

#include <span>

#include "backend/backend.h"
#include "backend/cpu/linear.h"

namespace pagoda::cpu {

/// What a grouped product is made of; see Backend::grouped_linear.
struct GroupedProduct {
  const Tensor& out;  ///< [T * k, R] f32 by place
  const Tensor& x;    ///< [T, K] or [T * k, K] f32
  const Weight& experts;
  const float* bias;  ///< [E, R] or null
  const Routing& routing;
  ExpertInput input;  ///< what the rows of x belong to
};

/// Scratch bytes of one grouped_linear, at most. Pure, the same for every ISA.
size_t grouped_linear_workspace(int64_t num_pairs, int64_t cols, std::span<const WeightFormat> formats, ExpertInput input);

/// Multiplies; `workspace` is 64-byte aligned. An output row has the bits that `linear` gives the same row with its expert's
/// weight, so they depend on neither the other tokens nor the number of threads.
void grouped_linear(const LinearKernels& kernels, ThreadPool& pool, const GroupedProduct& product, void* workspace);

}  // namespace pagoda::cpu

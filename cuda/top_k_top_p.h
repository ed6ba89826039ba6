// top_k_top_p.cu: the sampler's filters as an operation of their own.
#pragma once

#include "core/tensor.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

struct FilterParams {
  int32_t top_k = 0;  ///< 0 = off
  float top_p = 1;    ///< 1 = off
};

/// Sets the logits[R, V] (f32, each row's largest finite) that top-k and then top-p drop to -infinity; ties with the last that
/// is kept are kept. `params` [R] lies on the device.
void filter_top_k_top_p(const Queue& queue, const Tensor& logits, const FilterParams* params);

}  // namespace pagoda::cuda

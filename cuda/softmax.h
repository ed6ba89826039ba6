// softmax.cu: the softmax that the sampler draws from, as an operation of its own.
#pragma once

#include "core/tensor.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// out[R, V] = softmax(logits[R, V] / temperatures[R]), f32, from the integer masses that the sampler draws by: each row's
/// values are the same for any batch. Temperatures lie on the device and are positive; each row's largest quotient must be
/// finite. `out` may be `logits`.
void softmax(const Queue& queue, const Tensor& out, const Tensor& logits, const float* temperatures);

}  // namespace pagoda::cuda

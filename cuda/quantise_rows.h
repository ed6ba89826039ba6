// Activations in eight bits, for products that cuBLASLt computes with weights in e4m3. Called by LtMatmul.
#pragma once

#include "core/tensor.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// values[T, cols] (e4m3, dense) and scales[T] of x[T, cols] (bf16): a row's largest magnitude becomes 448 times its scale, the
/// others go to the nearest code. A row that holds no number or an infinity gets a code that is none. Rows of x begin at
/// multiples of 16 bytes, `cols` is a multiple of 8.
void quantise_rows(const Queue& queue, void* values, float* scales, const Tensor& x);

}  // namespace pagoda::cuda

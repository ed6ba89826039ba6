// The activations, element by element in f32. Used by elementwise.cu and linear_kernel.cuh, which give the same bits.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"

namespace pagoda::cuda {

/// NaN stays NaN in all of them.
template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == Activation::silu) {
    return x / (1.0f + expf(-x));
  } else if constexpr (kActivation == Activation::gelu_tanh) {
    // 1 + tanh(u) = 2 / (1 + e^-2u)
    return x / (1.0f + expf(-1.5957691216057308f * (x * fmaf(x * x, 0.044715f, 1.0f))));
  } else if constexpr (kActivation == Activation::gelu) {
    return 0.5f * x * erfcf(-0.70710678118654752f * x);  // 1 + erf(y) = erfc(-y), which does not cancel
  } else {
    static_assert(kActivation == Activation::relu);
    return x < 0.0f ? 0.0f : x;
  }
}

template <Activation kActivation>
__device__ __forceinline__ float gated(float gate, float up) {
  if constexpr (kActivation == Activation::clamped_swiglu) {
    const float g = gate > 7.0f ? 7.0f : gate;
    const float u = up > 7.0f ? 7.0f : up < -7.0f ? -7.0f : up;
    return g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
  } else {
    return activate<kActivation>(gate) * up;
  }
}

}  // namespace pagoda::cuda

// Prefill attention for heads of 65 to 96 elements.
#include "cuda/attention_prefill.cuh"
#include "cuda/attention_prefill.h"

namespace pagoda::cuda {

template <class Kv>
static void launch_as(const Queue& queue, const AttentionParams& params) {
  launch_prefill_attention<PrefillShape<Kv, 96, 96, 2, 4, 2>>(queue, params);
}

void prefill_attention_96(const Queue& queue, const AttentionParams& params, DType kv_dtype) {
  switch (kv_dtype) {
    case DType::f16:
      return launch_as<F16>(queue, params);
    case DType::f8_e4m3:
      return launch_as<E4m3>(queue, params);
    default:
      return launch_as<Bf16>(queue, params);
  }
}

}  // namespace pagoda::cuda

// Prefill attention for heads of 129 to 256 elements.
#include "cuda/attention_prefill.cuh"
#include "cuda/attention_prefill.h"

namespace pagoda::cuda {

/// Where a block has 160 KiB, it takes all columns of the values at once, else half of them.
template <class Kv>
static void launch_as(const Queue& queue, const AttentionParams& params) {
  using Large = PrefillShape<Kv, 256, 256, 1, 4, 1>;
  using Small = PrefillShape<Kv, 256, 128, 1, 4, 2>;
  static_assert(Large::kSharedBytes <= 163 * 1024 && Small::kSharedBytes <= 99 * 1024);  // sm_80, sm_89
  if (queue.shared_bytes >= Large::kSharedBytes) return launch_prefill_attention<Large>(queue, params);
  launch_prefill_attention<Small>(queue, params);
}

void prefill_attention_256(const Queue& queue, const AttentionParams& params, DType kv_dtype) {
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

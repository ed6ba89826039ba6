// Prefill attention for heads of 97 to 128 elements.
#include "cuda/attention_prefill.cuh"
#include "cuda/attention_prefill.h"

namespace pagoda::cuda {

/// Blocks of 256 rows where the sums of earlier leaves, 128 KiB, have room (sm_90), else two of 64.
template <class Kv>
static void launch_as(const Queue& queue, const AttentionParams& params) {
  using Large = PrefillShape<Kv, 128, 128, 2, 8, 1>;
  using Small = PrefillShape<Kv, 128, 128, 1, 4, 2>;
  static_assert(Large::kSharedBytes <= 227 * 1024 && 2 * (Small::kSharedBytes + 1024) <= 100 * 1024);  // sm_90, sm_89
  if (queue.shared_bytes >= Large::kSharedBytes) return launch_prefill_attention<Large>(queue, params);
  launch_prefill_attention<Small>(queue, params);
}

void prefill_attention_128(const Queue& queue, const AttentionParams& params, DType kv_dtype) {
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

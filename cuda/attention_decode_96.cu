// Decode attention for heads of 65 to 96 elements. Called by attention_decode.cu.
#include "cuda/attention_decode.cuh"

namespace pagoda::cuda {

template void launch_decode_attention<96>(const Queue& queue, const AttentionParams& params, DType kv_dtype);

}  // namespace pagoda::cuda

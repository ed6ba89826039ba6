// Decode attention for heads of 129 to 256 elements. Called by attention_decode.cu.
#include "cuda/attention_decode.cuh"

namespace pagoda::cuda {

template void launch_decode_attention<256>(const Queue& queue, const AttentionParams& params, DType kv_dtype);

}  // namespace pagoda::cuda

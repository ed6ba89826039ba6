// Decode attention for heads of 1 to 64 elements. Called by attention_decode.cu.
#include "cuda/attention_decode.cuh"

namespace pagoda::cuda {

template void launch_decode_attention<64>(const Queue& queue, const AttentionParams& params, DType kv_dtype);

}  // namespace pagoda::cuda

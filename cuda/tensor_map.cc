// The driver's encoder of tensor maps, found at run time: nothing of the driver is linked.
#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "core/check.h"
#include "cuda/queue.h"

namespace pagoda::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encoder() {
  constexpr unsigned kFirstVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kFirstVersion, cudaEnableDefault, &found),
        "looking for the driver's tensor maps");
  if (found != cudaDriverEntryPointSuccess || !function) throw DeviceError("the NVIDIA driver knows no tensor maps");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap tensor_map(const TensorBoxes& boxes) {
  static const Encode encode = find_encoder();
  const std::array<uint32_t, TensorBoxes::kMaxRank> every_element{1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<uint32_t>(boxes.rank),
                                 const_cast<void*>(boxes.base), boxes.sizes.data(), boxes.strides.data() + 1, boxes.box.data(),
                                 every_element.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw DeviceError(str("the NVIDIA driver refused a tensor map: error ", static_cast<int>(result)));
  return map;
}

}  // namespace pagoda::cuda

// The words of the option `device`, turned into a backend's own options.
#include "engine/device_choice.h"

#include <utility>

#include "core/check.h"

namespace pagoda {

DeviceChoice::DeviceChoice(const EngineOptions& options, StartFolders folders) {
  // Asked only if it matters: the question takes memory of the first GPU, which may be somebody else's.
  const auto usable_gpu = [] { return cuda_build() == CudaBuild::hardware && cuda_unavailable().empty(); };
  is_cpu_ = options.device == "cpu" || (options.device == "auto" && !usable_gpu());
  cpu_ = {static_cast<int>(options.num_threads), options.isa, options.activation_dtype};
  cuda_ = {0, options.deterministic, std::move(folders.libraries), std::move(folders.cache)};
  require(is_cpu_ || !options.speculative, "speculative works on the CPU only: unset it, or set device to cpu; got device ",
          options.device);
  if (is_cpu_ || options.device == "auto") return;
  if (options.device == "cuda-emu") {
    require(cuda_build() == CudaBuild::emulated,
            "device: cuda-emu runs the CUDA kernels on the CPU for tests; this build does not have it, use cpu or cuda");
    return;
  }
  require(cuda_build() != CudaBuild::emulated, "this build emulates GPUs for tests; use device: cuda-emu or cpu");
  cuda_.device_index = options.cuda_index().value();
}

const BackendTraits& DeviceChoice::traits() const { return is_cpu_ ? cpu_traits() : cuda_traits(); }

DeviceInfo DeviceChoice::info() const { return is_cpu_ ? cpu_device_info(cpu_) : cuda_device_info(cuda_); }

std::unique_ptr<Backend> DeviceChoice::make_backend() const {
  return is_cpu_ ? make_cpu_backend(cpu_) : make_cuda_backend(cuda_);
}

DType DeviceChoice::kv_dtype(const std::string& option) const {
  DType dtype = DType::bf16;
  std::string held;
  for (const auto& [name, type] :
       {std::pair{"bf16", DType::bf16}, std::pair{"f16", DType::f16}, std::pair{"fp8", DType::f8_e4m3},
        std::pair{"int8", DType::i8}, std::pair{"f32", DType::f32}}) {
    if (option == name) dtype = type;
    if (traits().holds_kv(type)) held.append(held.empty() ? "" : ", ").append(name);
  }
  require(traits().holds_kv(dtype), "kv_cache_dtype on device ", traits().name, " must be auto, ", held, ", got \"", option,
          "\"");
  return dtype;
}

}  // namespace pagoda

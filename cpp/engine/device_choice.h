// Which device the options mean, and its backend: "auto", "cpu", "cuda", "cuda:1", "cuda-emu". Used by start-up and planning.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine/options.h"

namespace pagoda {

/// Where a start may look for and keep things; found by the caller, who knows the user's machine.
struct StartFolders {
  std::vector<std::string> libraries;  ///< of NVIDIA's packages, for cuBLASLt
  std::string cache;                   ///< keeps what a GPU's tuning found; empty = nothing is kept
};

class DeviceChoice {
 public:
  /// "auto" is the first GPU if this build has kernels for it and it can be used, else the CPU. Throws InvalidArgument for a
  /// device that is no such word, or an emulated one in a build without the emulation. Creates nothing.
  explicit DeviceChoice(const EngineOptions& options, StartFolders folders = {});

  bool is_cpu() const { return is_cpu_; }
  const BackendTraits& traits() const;
  /// Throws DeviceError when there is no such device.
  DeviceInfo info() const;
  /// Throws InvalidArgument for options the device cannot meet, DeviceError when it cannot be used.
  std::unique_ptr<Backend> make_backend() const;
  /// The type of the KV cache that the options mean on this device. Throws InvalidArgument if it cannot hold it.
  DType kv_dtype(const std::string& option) const;

 private:
  bool is_cpu_;
  CpuOptions cpu_;
  CudaOptions cuda_;
};

}  // namespace pagoda

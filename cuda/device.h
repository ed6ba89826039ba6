// What GPU there is. Used by the planner, the backend and `enginectl doctor`.
#pragma once

#include <string>

#include "backend/backend.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// Facts of one GPU.
struct Gpu {
  DeviceInfo info;
  Queue queue;  ///< without a stream
  int driver_version = 0;
};

/// Makes the device current for this thread. Throws DeviceError when it does not exist, is older than sm_80 or this build
/// has no code for it.
Gpu open_gpu(int index);

}  // namespace pagoda::cuda

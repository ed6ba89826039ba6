// The emulation's side of what cuda/device_build.cc says of a build for GPUs.
#include "backend/backend.h"

namespace pagoda {

CudaBuild cuda_build() { return CudaBuild::emulated; }

}  // namespace pagoda

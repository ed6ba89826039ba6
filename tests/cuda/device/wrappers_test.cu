// The instructions of cuda/gpu.h as the hardware carries them out, held to the same vectors as the emulated ones.
#include "device_support.h"
#include "wrapper_vectors.h"

namespace pagoda::device_test {
namespace {

class Wrappers : public DeviceTest {};

TEST_F(Wrappers, instructions_of_sm_80_do_what_ptx_says) {
  for (const cuda::wrappers::Check& check : cuda::wrappers::gpu_checks()) EXPECT_EQ(check.run(), "") << check.name;
}

}  // namespace
}  // namespace pagoda::device_test

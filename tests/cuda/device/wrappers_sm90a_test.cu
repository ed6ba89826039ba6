// The instructions of cuda/gpu90.h, which only GPUs of compute capability 9.0 have, held to the same vectors as the emulated ones.
#include "device_support.h"
#include "wrapper_vectors90.h"

namespace pagoda::device_test {
namespace {

class Wrappers90 : public DeviceTest {};

TEST_F(Wrappers90, instructions_of_sm_90a_do_what_ptx_says) {
  if (cuda_device_info({}).isa != "sm_90") GTEST_SKIP() << "the GPU is not of compute capability 9.0";
  for (const cuda::wrappers::Check& check : cuda::wrappers::gpu90_checks()) EXPECT_EQ(check.run(), "") << check.name;
}

}  // namespace
}  // namespace pagoda::device_test

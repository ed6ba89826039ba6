// The instructions of cuda/gpu90.h, which only GPUs of compute capability 9.0 have, held to the same vectors as the emulated
// ones.
#include "device_support.h"

// This file is compiled for other GPUs than wrappers_test.cu is: the linker must not take the kernels of one for the other's.
#define wrappers wrappers_for_sm90a
#include "wrapper_vectors90.h"

namespace pagoda::device_test {
namespace {

class Wrappers90 : public DeviceTest {};

TEST_F(Wrappers90, instructions_of_sm_90a_do_what_ptx_says) {
  if (cuda_device_info({}).isa != "sm_90") GTEST_SKIP() << "the GPU is not of compute capability 9.0";
  for (const cuda::wrappers_for_sm90a::Check& check : cuda::wrappers_for_sm90a::gpu90_checks())
    EXPECT_EQ(check.run(), "") << check.name;
}

}  // namespace
}  // namespace pagoda::device_test

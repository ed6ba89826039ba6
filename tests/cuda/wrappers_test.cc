// The emulated instructions against the vectors that a GPU is held to as well (wrapper_vectors.h, wrapper_vectors90.h).
#include <gtest/gtest.h>

#include "emulation_support.h"
#include "wrapper_vectors.h"
#include "wrapper_vectors90.h"

namespace pagoda::cuda {
namespace {

void run(const std::vector<wrappers::Check>& checks) {
  for (const wrappers::Check& check : checks) {
    for (unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      EXPECT_EQ(check.run(), "") << check.name << ", schedule " << seed;
      EXPECT_EQ(emu::last_fault(), "") << check.name << ", schedule " << seed;
    }
  }
}

TEST(Wrappers, instructions_of_sm_80_do_what_ptx_says) { run(wrappers::gpu_checks()); }
TEST(Wrappers, instructions_of_sm_90a_do_what_ptx_says) { run(wrappers::gpu90_checks()); }

}  // namespace
}  // namespace pagoda::cuda

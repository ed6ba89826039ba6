// The device's memory in pieces, uploads through pinned slots, and what is said of a GPU that is not there.
#include "cuda/device_memory.h"

#include <gtest/gtest.h>

#include <numeric>

#include "backend/cuda_library.h"
#include "core/check.h"
#include "cuda/device.h"
#include "cuda/staging.h"
#include "emulated_cublaslt.h"
#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

TEST(DeviceMemory, what_was_reserved_is_given_out_without_another_allocation) {
  DeviceMemory memory;
  const size_t before = emu::allocated_bytes();
  memory.reserve(1024);
  EXPECT_EQ(emu::allocated_bytes() - before, 1024u);
  const Buffer a = memory.allocate(1), b = memory.allocate(700);
  EXPECT_EQ(static_cast<char*>(b.get()) - static_cast<char*>(a.get()), 256);
  EXPECT_EQ(emu::allocated_bytes() - before, 1024u);
  const Buffer c = memory.allocate(1);
  EXPECT_EQ(emu::allocated_bytes() - before, 1024u + 256u) << "what does not fit is a piece of its own";
}

TEST(DeviceMemory, a_piece_lives_as_long_as_a_buffer_of_it) {
  DeviceMemory memory;
  const size_t before = emu::allocated_bytes();
  memory.reserve(512);
  Buffer a = memory.allocate(10), b = memory.allocate(10);
  memory.reserve(0);
  a.reset();
  EXPECT_EQ(emu::allocated_bytes() - before, 512u);
  b.reset();
  EXPECT_EQ(emu::allocated_bytes(), before);
}

TEST(DeviceMemory, a_device_without_room_says_how_much_there_is) {
  DeviceMemory memory;
  try {
    memory.allocate(emu::device().total_bytes + 1);
    FAIL();
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("the GPU has no room for"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("bytes are free"), std::string::npos) << error.what();
  }
}

TEST(Staging, an_upload_can_be_changed_after_the_call_and_be_larger_than_the_slots) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  {
    Staging staging(stream);
    DeviceMemory memory;
    std::vector<int> values(6 << 20), got(values.size());
    const Buffer device = memory.allocate(values.size() * sizeof(int));
    std::iota(values.begin(), values.end(), 0);
    staging.upload(device.get(), values.data(), values.size() * sizeof(int));
    std::fill(values.begin(), values.end(), -1);
    staging.download(got.data(), device.get(), got.size() * sizeof(int));
    std::iota(values.begin(), values.end(), 0);
    EXPECT_EQ(got, values);
  }
  check(cudaStreamDestroy(stream), "stream");
}

TEST(Staging, many_uploads_reuse_the_slots_in_order) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  {
    Staging staging(stream);
    DeviceMemory memory;
    const Buffer device = memory.allocate(40 * sizeof(int));
    for (int i = 0; i < 40; ++i) staging.upload(static_cast<int*>(device.get()) + i, &i, sizeof(i));
    std::vector<int> got(40), expected(40);
    std::iota(expected.begin(), expected.end(), 0);
    staging.download(got.data(), device.get(), got.size() * sizeof(int));
    EXPECT_EQ(got, expected);
  }
  check(cudaStreamDestroy(stream), "stream");
}

TEST(Device, a_gpu_that_does_not_exist_or_is_too_old_is_refused_in_words) {
  EXPECT_EQ(open_gpu(0).info.isa, "sm_90");
  try {
    open_gpu(3);
    FAIL();
  } catch (const DeviceError& error) {
    EXPECT_STREQ(error.what(), "device: cuda:3 does not exist; there are 1 GPUs, from cuda:0");
  }
  emu::device().compute_capability = 75;
  EXPECT_NE(cuda_unavailable().find("compute capability 8.0"), std::string::npos);
  EXPECT_THROW(open_gpu(0), DeviceError);
  emu::device().compute_capability = 90;
  EXPECT_EQ(cuda_unavailable(), "");
}

TEST(Device, a_gpu_for_which_there_is_no_code_is_refused_in_words) {
  emu::device().compute_capability = 120;
  emu::device().code_capability = 0;
  const std::string said = cuda_unavailable();
  EXPECT_NE(said.find("compute capability 12.0, and this build has no kernels that run on it"), std::string::npos) << said;
  EXPECT_THROW(open_gpu(0), DeviceError);
  emu::device().code_capability = 90;
  EXPECT_EQ(cuda_unavailable(), "");
  emu::device().compute_capability = 90;
}

TEST(Device, kernels_start_early_only_if_their_code_can_wait) {
  EXPECT_TRUE(open_gpu(0).queue.starts_early);
  emu::device().code_capability = 80;  // compiled by the driver from code for an older GPU
  EXPECT_FALSE(open_gpu(0).queue.starts_early);
  emu::device().code_capability = 90;
}

TEST(Device, the_library_is_named_with_its_version_and_missed_in_words) {
  EXPECT_EQ(find_cuda_library({}), "cuBLASLt 13.0.0, emulated cuBLASLt");
  emu::cublaslt().absent = true;
  EXPECT_THROW(find_cuda_library({}), DeviceError);
  emu::cublaslt().absent = false;
}

}  // namespace
}  // namespace pagoda::cuda

// The emulation itself: kernels with known faults are reported, right ones run to their end under every schedule.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "cuda/gpu.h"
#include "cuda/queue.h"
#include "cuda/reduce.cuh"
#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

/// Runs the kernel and returns the text of its fault, empty if there was none.
template <class... Parameters, class... Arguments>
std::string fault_of(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  launch(test_queue(), shape, "kernel", kernel, arguments...);
  return cudaStreamSynchronize(nullptr) == cudaSuccess ? std::string() : emu::last_fault();
}

__global__ void sum_kernel(const int* in, int* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  const int sum = block_sum<4>(in[blockIdx.x * 128 + threadIdx.x], reinterpret_cast<int*>(shared));
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

TEST(Emulation, sums_of_blocks_are_right_under_every_schedule) {
  std::vector<int> in(512), out(4);
  for (int i = 0; i < 512; ++i) in[static_cast<size_t>(i)] = i;
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    out.assign(4, -1);
    EXPECT_EQ(fault_of({4, 128, 16}, sum_kernel, in.data(), out.data()), "");
    EXPECT_EQ(out, (std::vector<int>{8128, 24512, 40896, 57280})) << "schedule " << seed;
  }
}

__global__ void divergent_kernel() {
  gpu::wait_for_grid();
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(Emulation, barriers_at_different_lines_are_divergent) {
  EXPECT_NE(fault_of({1, 64}, divergent_kernel).find("divergent barrier"), std::string::npos);
}

__global__ void lonely_shuffle_kernel() {
  gpu::wait_for_grid();
  if (threadIdx.x < 16) __shfl_xor_sync(~0u, 1, 1);
}

TEST(Emulation, lanes_that_never_meet_are_a_deadlock) {
  EXPECT_NE(fault_of({1, 32}, lonely_shuffle_kernel).find("deadlock"), std::string::npos);
}

__global__ void unwritten_kernel(float* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  *out = *reinterpret_cast<float*>(shared);
}

TEST(Emulation, shared_memory_that_was_not_written_is_nan) {
  float out = 0;
  EXPECT_EQ(fault_of({1, 1, 64}, unwritten_kernel, &out), "");
  EXPECT_NE(out, out);
}

template <bool kWaits>
__global__ void copy_kernel(const float* in, float* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  gpu::cp_async16(shared, in, true);
  gpu::cp_async_commit();
  if (kWaits) gpu::cp_async_wait<0>();
  *out = *reinterpret_cast<float*>(shared);
  gpu::cp_async_wait<0>();
}

TEST(Emulation, asynchronous_copies_arrive_at_the_wait_or_at_once) {
  alignas(16) const float in[4] = {7, 7, 7, 7};
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    float out = 0;
    EXPECT_EQ(fault_of({1, 1, 64}, copy_kernel<true>, in, &out), "");
    EXPECT_EQ(out, 7);
    EXPECT_EQ(fault_of({1, 1, 64}, copy_kernel<false>, in, &out), "");
    EXPECT_EQ(out == 7, seed % 2 == 1) << "schedule " << seed;
  }
}

/// Threads copy into what their neighbours have still to read: a barrier is missing before the second copy.
__global__ void refilling_kernel(const float* in, float* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* values = reinterpret_cast<float*>(shared);
  const unsigned thread = threadIdx.x;
  gpu::cp_async4(values + thread, in + thread);
  gpu::cp_async_commit();
  gpu::cp_async_wait<0>();
  __syncthreads();
  out[thread] = values[63 - thread];
  gpu::cp_async4(values + thread, in + 64 + thread);
  gpu::cp_async_commit();
  gpu::cp_async_wait<0>();
}

TEST(Emulation, a_buffer_that_is_filled_while_others_read_it_shows_in_the_result) {
  std::vector<float> in(128), out(64);
  for (int i = 0; i < 128; ++i) in[static_cast<size_t>(i)] = static_cast<float>(i);
  int wrong = 0;
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    EXPECT_EQ(fault_of({1, 64, 256}, refilling_kernel, in.data(), out.data()), "");
    for (int i = 0; i < 64; ++i) wrong += out[static_cast<size_t>(i)] != static_cast<float>(63 - i);
  }
  EXPECT_GT(wrong, 0);
}

__global__ void leaving_kernel(const float* in) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  gpu::cp_async16(shared, in, true);
}

TEST(Emulation, a_copy_that_nobody_waits_for_is_reported) {
  alignas(16) const float in[4] = {};
  EXPECT_NE(fault_of({1, 1, 64}, leaving_kernel, in).find("in flight"), std::string::npos);
}

__global__ void outside_kernel(const float* in) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  gpu::cp_async16(shared + 64, in, true);
  gpu::cp_async_wait<0>();
}

TEST(Emulation, copies_past_the_shared_memory_are_reported) {
  alignas(16) const float in[4] = {};
  EXPECT_NE(fault_of({1, 1, 64}, outside_kernel, in).find("outside"), std::string::npos);
}

__global__ void racing_kernel(int* out) {
  gpu::wait_for_grid();
  DYNAMIC_SHARED(shared);
  auto* values = reinterpret_cast<int*>(shared);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  // a barrier is missing here
  out[threadIdx.x] = values[127 - threadIdx.x];
}

TEST(Emulation, a_missing_barrier_shows_in_the_result) {
  std::vector<int> out(128);
  int wrong = 0;
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    EXPECT_EQ(fault_of({1, 128, 512}, racing_kernel, out.data()), "");
    for (int i = 0; i < 128; ++i) wrong += out[static_cast<size_t>(i)] != 127 - i;
  }
  EXPECT_GT(wrong, 0);
}

__global__ void early_kernel(int* out) { *out = 1; }

TEST(Emulation, a_kernel_that_starts_early_must_wait_for_its_predecessor) {
  int out = 0;
  EXPECT_NE(fault_of({1, 1}, early_kernel, &out).find("griddepcontrol.wait"), std::string::npos);
}

__global__ void add_kernel(int* value, int amount) {
  gpu::wait_for_grid();
  *value += amount;
}

__global__ void copy_value_kernel(const int* from, int* to, bool waits) {
  DYNAMIC_SHARED(shared);
  auto& value = *reinterpret_cast<int*>(shared);
  if (waits) gpu::wait_for_grid();
  if (threadIdx.x == 0) value = *from;
  __syncthreads();
  gpu::wait_for_grid();
  if (threadIdx.x == 1) *to = value;
}

/// What a kernel copies that stands behind two others, of which the first and the second add 5 to 1.
int copied_behind_two(bool waits, int compute_capability = 90) {
  int value = 1, other = 0, seen = 0;
  const Queue queue = test_queue(4, compute_capability);
  launch(queue, {1, 1}, "add", add_kernel, &value, 5);
  launch(queue, {1, 1}, "add", add_kernel, &other, 5);
  launch(queue, {1, 64, 16}, "copy", copy_value_kernel, &value, &seen, waits);
  check(cudaStreamSynchronize(nullptr), "wait");
  return seen;
}

TEST(Emulation, what_a_kernel_reads_before_its_wait_is_old) {
  for (unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    EXPECT_EQ(copied_behind_two(true), 6) << "schedule " << seed;
    EXPECT_EQ(copied_behind_two(true, 80), 6) << "schedule " << seed;
    EXPECT_EQ(copied_behind_two(false, 80), 6) << "before sm_90 a kernel starts when the others have ended";
  }
  EXPECT_EQ(copied_behind_two(false), 1);
}

TEST(Emulation, a_kernel_does_not_start_before_a_copy) {
  int value = 1, copy = 0, seen = 0;
  launch(test_queue(), {1, 1}, "add", add_kernel, &value, 5);
  check(cudaMemcpyAsync(&copy, &value, sizeof(value), cudaMemcpyDefault), "copy");
  launch(test_queue(), {1, 64, 16}, "copy", copy_value_kernel, &copy, &seen, false);
  check(cudaStreamSynchronize(nullptr), "wait");
  EXPECT_EQ(seen, 6);
}

TEST(Emulation, streams_run_when_somebody_waits) {
  int value = 0;
  launch(test_queue(), {1, 1}, "add", add_kernel, &value, 5);
  EXPECT_EQ(value, 0);
  check(cudaStreamSynchronize(nullptr), "wait");
  EXPECT_EQ(value, 5);
}

TEST(Emulation, graphs_replay_what_was_recorded) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  Queue queue = test_queue();
  queue.stream = stream;
  int value = 0;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
  launch(queue, {1, 1}, "add", add_kernel, &value, 5);
  check(cudaStreamEndCapture(stream, &graph), "end");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(executable, stream), "launch");
  check(cudaStreamSynchronize(stream), "wait");
  EXPECT_EQ(value, 15);
  check(cudaGraphExecDestroy(executable), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
  check(cudaStreamDestroy(stream), "destroy");
}

TEST(Emulation, a_stream_waits_for_the_event_of_another) {
  cudaStream_t first, second;
  check(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), "stream");
  check(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), "stream");
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  int value = 1, seen = 0;
  check(cudaMemsetAsync(&value, 0, sizeof(value), first), "memset");
  check(cudaEventRecord(event, first), "record");
  check(cudaStreamWaitEvent(second, event), "wait event");
  check(cudaMemcpyAsync(&seen, &value, sizeof(value), cudaMemcpyDefault, second), "copy");
  seen = 7;
  check(cudaStreamSynchronize(second), "wait");
  EXPECT_EQ(seen, 0);
  check(cudaEventDestroy(event), "destroy");
  check(cudaStreamDestroy(first), "destroy");
  check(cudaStreamDestroy(second), "destroy");
}

}  // namespace
}  // namespace pagoda::cuda

// The part of the CUDA runtime that Pagoda calls, carried out on the CPU. Streams are queues of closures that run only when
// something waits for them, so that a missing wait is seen; graphs are recorded closures. A kernel with programmatic dependence
// begins before the two kernels in front of it, as if each let its successor start at once: its first block comes to its
// griddepcontrol.wait and goes on there when they have ended. Errors of kernels (emu::Fault) come
// out of the call that waits, as cudaErrorLaunchFailure with the text in emu::last_fault().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "fiber.h"
#include "vector_types.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
};

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };

union cudaLaunchAttributeValue {
  int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};

namespace emu {
struct Stream;
struct Event;
struct Graph;
}  // namespace emu
using cudaStream_t = emu::Stream*;
using cudaEvent_t = emu::Event*;
using cudaGraph_t = emu::Graph*;
using cudaGraphExec_t = emu::Graph*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

struct cudaDeviceProp {
  char name[256];
};

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
constexpr unsigned long long cudaEnableDefault = 0;

constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDisableTiming = 2;
constexpr unsigned cudaHostAllocDefault = 0;

namespace emu {

/// What the emulated device claims to be; set before the backend is made.
struct Device {
  std::string name = "emulated GPU";
  int num_multiprocessors = 4;
  int compute_capability = 90;
  int code_capability = 90;  ///< for which the kernels were compiled; 0: they were not, for this device
  size_t total_bytes = size_t{1} << 30;
  size_t shared_bytes = 227 * 1024;  ///< largest dynamic shared memory of a block
  size_t l2_bytes = size_t{1} << 20;
  double least_milliseconds = 1;  ///< between two events, also if no work took time
};
Device& device();

/// The text of the last kernel fault, emptied by reading.
std::string last_fault();

/// A piece of work of a stream.
struct Work {
  std::function<void()> run;  ///< once, or for each thread of the grid
  std::optional<Grid> grid;   ///< of one of our kernels
  bool is_kernel = false;     ///< with which a dependent kernel behind it can overlap
};

/// Puts work at the end of the stream (null: the default stream), or into the graph being recorded.
cudaError_t enqueue(cudaStream_t stream, Work work);
inline cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  return enqueue(stream, Work{std::move(work), {}, false});
}

/// Bytes that cudaMalloc has handed out and not taken back.
size_t allocated_bytes();
/// Kernels that ran since the process started.
uint64_t num_launches();

/// Called by work that runs: lets time pass, which events of any stream see. Nothing else takes time.
void spend_time(double milliseconds);
/// Whether what enters the stream is recorded.
bool is_recording(cudaStream_t stream);

}  // namespace emu

cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
/// Finds what emulation/cuda.h declares.
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* found = nullptr);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);

struct cudaFuncAttributes {
  int ptxVersion;
};

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = emu::device().code_capability;
  return emu::device().code_capability ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

/// The dynamic shared memory that a launch may ask for is checked against the device, not against this.
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return static_cast<size_t>(bytes) <= emu::device().shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}

/// Arguments are copied when the kernel is launched, as CUDA does, and again for every thread.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (config->dynamicSmemBytes > emu::device().shared_bytes) return cudaErrorInvalidValue;
  emu::Grid grid{config->gridDim, config->blockDim, config->dynamicSmemBytes, false};
  if (!grid.blocks.x || !grid.blocks.y || !grid.blocks.z || grid.blocks.y > 65535 || grid.blocks.z > 65535) {
    return cudaErrorInvalidValue;
  }
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization) {
      grid.dependent = config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
    }
  }
  std::tuple<std::remove_cv_t<Parameters>...> copies(static_cast<Parameters>(arguments)...);
  const auto body = [kernel, copies] {
    auto own = copies;
    std::apply(kernel, own);
  };
  return emu::enqueue(config->stream, emu::Work{body, grid, true});
}

// Memory with poison, streams that run late, graphs of closures.
#include "runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

namespace emu {

struct Event {
  uint64_t recorded = 0;   ///< records asked for
  uint64_t completed = 0;  ///< the latest record that was reached
  double time = 0;         ///< when that was
  Stream* stream = nullptr;
};

struct Queued {
  Work work;
  std::unique_ptr<GridRun> begun;  ///< null: not begun
};

struct Stream {
  std::deque<Queued> queue;
  Graph* recording = nullptr;
};

struct Graph {
  std::vector<Work> work;
};

namespace {

constexpr size_t kAlignment = 256;

struct State {
  std::map<void*, size_t> device_memory;
  size_t device_bytes = 0;
  std::map<void*, size_t> host_memory;
  Stream default_stream;
  std::vector<Stream*> streams;
  std::string fault;
  uint64_t num_launches = 0;
  double time = 0;  ///< milliseconds
};

State& state() {
  static State instance;
  return instance;
}

Stream& stream_of(cudaStream_t stream) { return stream ? *stream : state().default_stream; }

/// Begins the kernels that may overlap with the first in the queue.
void begin_dependents(std::deque<Queued>& queue) {
  constexpr size_t kOverlapping = 3;
  for (size_t i = 1; i < std::min(queue.size(), kOverlapping) && queue[i - 1].work.is_kernel; ++i) {
    Queued& next = queue[i];
    if (!next.work.grid || !next.work.grid->dependent) return;
    if (next.begun) continue;
    next.begun = std::make_unique<GridRun>(*next.work.grid, next.work.run);
    next.begun->start();
  }
}

void carry_out(Queued& queued) {
  if (!queued.work.grid) return queued.work.run();
  ++state().num_launches;
  if (!queued.begun) queued.begun = std::make_unique<GridRun>(*queued.work.grid, queued.work.run);
  queued.begun->finish();
}

/// Runs the stream's work until `done`; the fault of a kernel ends it and empties the queue.
template <class Done>
cudaError_t run_until(Stream& stream, const Done& done) {
  while (!stream.queue.empty() && !done()) {
    try {
      begin_dependents(stream.queue);
      Queued first = std::move(stream.queue.front());
      stream.queue.pop_front();
      carry_out(first);
    } catch (const Fault& fault) {
      state().fault = fault.what();
      stream.queue.clear();
      return cudaErrorLaunchFailure;
    }
  }
  return cudaSuccess;
}

cudaError_t run_all(Stream& stream) {
  return run_until(stream, [] { return false; });
}

void complete(Event& event, uint64_t record) {
  if (event.completed >= record || !event.stream) return;
  const cudaError_t error = run_until(*event.stream, [&] { return event.completed >= record; });
  if (error != cudaSuccess) throw Fault(state().fault);
}

cudaError_t new_memory(std::map<void*, size_t>& known, void** pointer, size_t bytes) {
  if (posix_memalign(pointer, kAlignment, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, bytes);  // NaN in every float type
  known[*pointer] = bytes;
  return cudaSuccess;
}

}  // namespace

Device& device() {
  static Device instance;
  return instance;
}

std::string last_fault() { return std::exchange(state().fault, std::string()); }

cudaError_t enqueue(cudaStream_t stream, Work work) {
  Stream& target = stream_of(stream);
  if (target.recording) {
    target.recording->work.push_back(std::move(work));
  } else {
    target.queue.push_back({std::move(work), nullptr});
  }
  return cudaSuccess;
}

size_t allocated_bytes() { return state().device_bytes; }
uint64_t num_launches() { return state().num_launches; }
void spend_time(double milliseconds) { state().time += milliseconds; }
bool is_recording(cudaStream_t stream) { return stream_of(stream).recording != nullptr; }

}  // namespace emu

using emu::Event;
using emu::Graph;
using emu::Stream;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (emu::state().device_bytes + bytes > emu::device().total_bytes) return cudaErrorMemoryAllocation;
  const cudaError_t error = emu::new_memory(emu::state().device_memory, pointer, bytes);
  if (error == cudaSuccess) emu::state().device_bytes += bytes;
  return error;
}

cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  const cudaError_t error = cudaDeviceSynchronize();
  const auto found = emu::state().device_memory.find(pointer);
  if (found == emu::state().device_memory.end()) return cudaErrorInvalidValue;
  emu::state().device_bytes -= found->second;
  emu::state().device_memory.erase(found);
  std::free(pointer);
  return error;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return emu::new_memory(emu::state().host_memory, pointer, bytes);
}

cudaError_t cudaFreeHost(void* pointer) {
  if (!pointer) return cudaSuccess;
  if (!emu::state().host_memory.erase(pointer)) return cudaErrorInvalidValue;
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = emu::device().total_bytes;
  *free_bytes = emu::device().total_bytes - emu::state().device_bytes;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return emu::enqueue(stream, [=] { std::memmove(to, from, bytes); });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  return emu::enqueue(stream, [=] { std::memset(pointer, value, bytes); });
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emu::Device& device = emu::device();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = device.num_multiprocessors;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = static_cast<int>(device.l2_bytes);
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = device.compute_capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device.compute_capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(device.shared_bytes);
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strncpy(properties->name, emu::device().name.c_str(), sizeof(properties->name) - 1);
  properties->name[sizeof(properties->name) - 1] = 0;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  cudaError_t error = emu::run_all(emu::state().default_stream);
  for (Stream* stream : emu::state().streams) {
    const cudaError_t one = emu::run_all(*stream);
    if (error == cudaSuccess) error = one;
  }
  return error;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  emu::state().streams.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t error = emu::run_all(*stream);
  std::erase(emu::state().streams, stream);
  delete stream;
  return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (emu::stream_of(stream).recording) return cudaErrorStreamCaptureUnsupported;
  return emu::run_all(emu::stream_of(stream));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const uint64_t record = event->recorded;
  return emu::enqueue(stream, [=] { emu::complete(*event, record); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const cudaError_t error = event->stream ? emu::run_all(*event->stream) : cudaSuccess;
  delete event;
  return error;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const uint64_t record = ++event->recorded;
  event->stream = &emu::stream_of(stream);
  return emu::enqueue(stream, [=] {
    event->completed = record;
    event->time = emu::state().time;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (!event->stream) return cudaSuccess;
  const uint64_t record = event->recorded;
  return emu::run_until(*event->stream, [=] { return event->completed >= record; });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = static_cast<float>(emu::device().least_milliseconds + end->time - begin->time);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->recording) return cudaErrorStreamCaptureUnsupported;
  stream->recording = new Graph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->recording) return cudaErrorStreamCaptureUnsupported;
  *graph = std::exchange(stream->recording, nullptr);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new Graph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const emu::Work& work : executable->work) {
    const cudaError_t error = emu::enqueue(stream, work);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    default:
      return "cudaErrorInvalidValue";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string text;
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorLaunchFailure:
      text = "unspecified launch failure (" + emu::state().fault + ")";
      return text.c_str();
    default:
      return "invalid argument";
  }
}

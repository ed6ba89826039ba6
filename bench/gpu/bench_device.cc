// Between two events lies a graph of many runs, itself behind a first pass of the same graph: the GPU never waits for the CPU.
#include "bench_device.h"

#include <algorithm>

#include "cuda/queue.h"

namespace pagoda::bench {
namespace {

constexpr double kRowMicroseconds = 3000;
constexpr int kMaxRuns = 1000;
constexpr int kRepeats = 9;

/// Runs recorded one after another.
class Recording {
 public:
  Recording(cudaStream_t stream, const BenchDevice::Work& work, int num_runs) {
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording");
    for (int run = 0; run < num_runs; ++run) work(run);
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamEndCapture(stream, &graph), "recording");
    cuda::check(cudaGraphInstantiate(&graph_, graph, 0), "recording");
    cudaGraphDestroy(graph);
  }
  ~Recording() { cudaGraphExecDestroy(graph_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void replay(cudaStream_t stream) const { cuda::check(cudaGraphLaunch(graph_, stream), "replaying"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

BenchDevice::BenchDevice(bool smoke) : smoke_(smoke), gpu_(cuda::open_gpu(0)) {
  cuda::check(cudaStreamCreateWithFlags(&gpu_.queue.stream, cudaStreamNonBlocking), "making a stream");
  cuda::check(cudaEventCreate(&begin_), "making an event");
  cuda::check(cudaEventCreate(&end_), "making an event");
  int bytes = 0;
  cuda::check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, 0), "asking for the cache's size");
  cache_bytes_ = static_cast<size_t>(bytes);
  gpu_.queue.deterministic = false;
}

BenchDevice::~BenchDevice() {
  cudaStreamSynchronize(queue().stream);
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
  cudaStreamDestroy(queue().stream);
}

void* BenchDevice::memory(size_t bytes) {
  buffers_.push_back(memory_.allocate(bytes));
  return buffers_.back().get();
}

void* BenchDevice::random(size_t bytes, Fill fill, float scale) {
  bytes = (bytes + 3) / 4 * 4;
  void* filled = memory(bytes);
  random_fill(queue(), filled, bytes, fill, scale, seed_++);
  return filled;
}

Tensor BenchDevice::random_tensor(DType dtype, int64_t rows, int64_t cols) {
  const Fill fill = dtype == DType::f32 ? Fill::f32 : dtype == DType::f16 ? Fill::f16 : Fill::bf16;
  return Tensor::dense(random(static_cast<size_t>(rows * cols) * dtype_bytes(dtype), fill), dtype, {rows, cols});
}

void* BenchDevice::upload(const void* host, size_t bytes) {
  void* device = memory(bytes);
  cuda::check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copying to the GPU");
  return device;
}

void BenchDevice::clear() {
  cuda::check(cudaStreamSynchronize(queue().stream), "a benchmark");
  buffers_.clear();
}

int BenchDevice::copies(size_t bytes) const {
  if (smoke_) return 2;
  return static_cast<int>(std::clamp<size_t>(2 * cache_bytes_ / std::max<size_t>(bytes, 1) + 1, 2, 512));
}

/// Microseconds of `work`, started while the GPU is still busy with `before`.
double BenchDevice::between(const std::function<void()>& before, const std::function<void()>& work) {
  before();
  cuda::check(cudaEventRecord(begin_, queue().stream), "timing");
  work();
  cuda::check(cudaEventRecord(end_, queue().stream), "timing");
  cuda::check(cudaEventSynchronize(end_), "timing");
  float milliseconds = 0;
  cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_), "timing");
  return 1000.0 * milliseconds;
}

Timing BenchDevice::summary(std::vector<double> microseconds) const {
  std::ranges::sort(microseconds);
  const double median = microseconds[microseconds.size() / 2];
  return {median, (microseconds.back() - microseconds.front()) / median};
}

Timing BenchDevice::time(int num_different, const Work& work) {
  const auto turn = [&](int run) { work(run % num_different); };
  turn(0);  // sets up what is set up on first use
  const double first = between([] {}, [&] { turn(1); });
  const int filling = static_cast<int>(std::min<double>(kRowMicroseconds / std::max(first, 1.0), kMaxRuns));
  const int num_runs = smoke_ ? 2 : std::max({filling, std::min(num_different, kMaxRuns), 1});
  const Recording recording(queue().stream, turn, num_runs);
  std::vector<double> times;
  for (int i = 0; i < (smoke_ ? 1 : kRepeats); ++i) {
    const auto replay = [&] { recording.replay(queue().stream); };
    times.push_back(between(replay, replay) / num_runs);
  }
  return summary(times);
}

Timing BenchDevice::time_direct(const Work& work, const std::function<void()>& after) {
  const size_t half = smoke_ ? 4096 : size_t{2} << 30;
  if (!long_copy_) long_copy_ = memory_.allocate(2 * half);
  auto* bytes = static_cast<std::byte*>(long_copy_.get());
  const auto copy = [&] {
    cuda::check(cudaMemcpyAsync(bytes + half, bytes, half, cudaMemcpyDeviceToDevice, queue().stream), "copying");
  };
  work(0);
  after();
  std::vector<double> times;
  for (int i = 0; i < (smoke_ ? 1 : kRepeats); ++i) {
    times.push_back(between(copy, [&] { work(i); }));
    after();
  }
  return summary(times);
}

}  // namespace pagoda::bench

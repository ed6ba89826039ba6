// Between two events lies a graph with so many runs that the events themselves do not count.
#include "cuda/graph_timer.h"

#include <algorithm>
#include <array>

#include "cuda/queue.h"

namespace pagoda::cuda {
namespace {

constexpr double kRowMicroseconds = 200;
/// Of runs that take as long, what lies in the cache at their start does not matter.
constexpr double kLongMicroseconds = 500;
constexpr int kMaxRuns = 128;
constexpr int kRepeats = 5;

int runs_in_a_row(double microseconds, int num_different) {
  if (microseconds > kLongMicroseconds) return 1;
  const int filling = static_cast<int>(kRowMicroseconds / std::max(microseconds, 1.0));
  return std::clamp(std::max(filling, num_different), 1, kMaxRuns);
}

/// Runs recorded one after another.
class Recording {
 public:
  Recording(cudaStream_t stream, const std::function<void(int run)>& work, int num_runs) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording what is timed");
    cudaGraph_t graph = nullptr;
    try {
      for (int run = 0; run < num_runs; ++run) work(run);
    } catch (...) {
      if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "recording what is timed");
    const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "recording what is timed");
  }
  ~Recording() { cudaGraphExecDestroy(graph_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void replay(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream), "replaying what is timed"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

GraphTimer::GraphTimer(cudaStream_t stream) : stream_(stream) {
  check(cudaEventCreate(&begin_), "making an event");
  if (const cudaError_t error = cudaEventCreate(&end_); error != cudaSuccess) {
    cudaEventDestroy(begin_);
    check(error, "making an event");
  }
}

GraphTimer::~GraphTimer() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

double GraphTimer::time(const std::function<void()>& work) {
  check(cudaEventRecord(begin_, stream_), "timing");
  work();
  check(cudaEventRecord(end_, stream_), "timing");
  check(cudaEventSynchronize(end_), "timing");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin_, end_), "timing");
  return 1000.0 * milliseconds;
}

double GraphTimer::microseconds(const Task& task) {
  task.work(0);  // sets up what is set up on first use
  const double first = time([&] { task.work(1); });
  if (first > task.limit) return first;
  const int num_runs = runs_in_a_row(first, task.num_different);
  const Recording recording(stream_, task.work, num_runs);
  std::array<double, kRepeats> times;
  for (double& microseconds : times) microseconds = time([&] { recording.replay(stream_); }) / num_runs;
  std::ranges::nth_element(times, times.begin() + kRepeats / 2);
  return times[kRepeats / 2];
}

}  // namespace pagoda::cuda

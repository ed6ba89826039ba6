// Capture, instantiate, launch.
#include "cuda/graph_cache.h"

#include "cuda/queue.h"

namespace pagoda::cuda {

GraphCache::~GraphCache() {
  cudaStreamSynchronize(stream_);
  for (const auto& [key, graph] : graphs_) {
    if (graph.executable) cudaGraphExecDestroy(graph.executable);
  }
}

void GraphCache::run(uint64_t key, const std::function<void()>& body) {
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    make_room();
    ages_.push_front(key);
    graphs_.emplace(key, Graph{nullptr, ages_.begin()});
    return body();
  }
  Graph& graph = found->second;
  ages_.splice(ages_.begin(), ages_, graph.age);
  if (!graph.executable) record(graph, body);
  check(cudaGraphLaunch(graph.executable, stream_), "launching a recorded step");
}

void GraphCache::record(Graph& graph, const std::function<void()>& body) {
  cudaGraph_t recorded = nullptr;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a step");
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(stream_, &recorded);
    if (recorded) cudaGraphDestroy(recorded);
    throw;
  }
  check(cudaStreamEndCapture(stream_, &recorded), "ending a recorded step");
  const cudaError_t error = cudaGraphInstantiate(&graph.executable, recorded, 0);
  cudaGraphDestroy(recorded);
  check(error, "preparing a recorded step");
}

void GraphCache::make_room() {
  if (graphs_.size() < kMaxGraphs) return;
  const auto oldest = graphs_.find(ages_.back());
  if (oldest->second.executable) {
    check(cudaStreamSynchronize(stream_), "waiting for a recorded step");  // it may still run
    check(cudaGraphExecDestroy(oldest->second.executable), "forgetting a recorded step");
  }
  graphs_.erase(oldest);
  ages_.pop_back();
}

}  // namespace pagoda::cuda

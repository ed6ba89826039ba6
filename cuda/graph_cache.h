// Recorded steps: a body of operations that ran once under a key is recorded the second time and replayed from then on.
// Owned by CudaBackend.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <unordered_map>

namespace pagoda::cuda {

/// The first run is direct, so that everything that is set up on first use has been. At most kMaxGraphs are kept; the one not
/// used for the longest time goes first.
class GraphCache {
 public:
  static constexpr size_t kMaxGraphs = 64;

  explicit GraphCache(cudaStream_t stream) : stream_(stream) {}
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  /// Runs `body`, which puts operations into the stream and does not wait. Equal keys: the same operations, with the same
  /// arguments. Throws DeviceError.
  void run(uint64_t key, const std::function<void()>& body);
  size_t size() const { return graphs_.size(); }

 private:
  struct Graph {
    cudaGraphExec_t executable = nullptr;  // null: ran once, not recorded yet
    std::list<uint64_t>::iterator age;
  };
  void record(Graph& graph, const std::function<void()>& body);
  void make_room();

  cudaStream_t stream_;
  std::unordered_map<uint64_t, Graph> graphs_;
  std::list<uint64_t> ages_;  // most recently used first
};

}  // namespace pagoda::cuda

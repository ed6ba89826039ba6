// Tries out the ways to compute products of a shape: which of them sum in the same order whatever the number of tokens, and
// which is the fastest. Made by Gemm while the engine starts; takes memory for one product of each shape and gives it back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "cuda/gemm_plan.h"
#include "cuda/graph_timer.h"
#include "cuda/lt_matmul.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// Our own kernel: puts out = x * weight^T into the queue. Its sums do not depend on the number of tokens.
using OwnKernel = std::function<void(const Queue& queue, const Tensor& out, const Tensor& x, const Matrix& weight)>;

/// Works on a stream of its own, which is empty between calls.
class GemmTuner {
 public:
  /// `shapes`: all that will be tried. `own` may be empty. Throws DeviceError when there is no room.
  GemmTuner(const Queue& queue, LtMatmul& matmul, const OwnKernel& own, std::span<const GemmShape> shapes);
  ~GemmTuner();
  GemmTuner(const GemmTuner&) = delete;
  GemmTuner& operator=(const GemmTuner&) = delete;

  /// The fastest way for each bucket; if the queue is deterministic, all of one order.
  GemmPlan tune(const GemmShape& shape);
  /// Runs each of the plan's algorithms once, so that whatever the library sets up on first use exists before a recording.
  /// False: the library does not run one of them.
  bool run_once(const GemmPlan& plan);

 private:
  /// Row i of the probe -> hash of its result, for every row: what an order of summation makes of the probe.
  using Order = std::vector<uint64_t>;
  struct Bucket;

  GemmOperands operands(const GemmShape& shape, int64_t num_tokens, int64_t first_row = 0, int run = 0) const;
  int num_copies(const GemmShape& shape) const;
  void fill(const GemmShape& shape);
  bool hash_results(const Bucket& bucket, const lt::Algorithm& algorithm, std::vector<std::vector<uint64_t>>& hashes);
  int order_of(const Bucket& bucket, const lt::Algorithm& algorithm);
  bool runs(const Bucket& bucket, const lt::Algorithm& algorithm);
  void try_own(Bucket& bucket);
  void try_algorithm(Bucket& bucket, const lt::Algorithm& algorithm);
  std::vector<lt::Algorithm> candidates(const Bucket& bucket, const std::vector<GemmTrial>& larger);
  double limit(const Bucket& bucket) const;

  Queue queue_;
  LtMatmul& matmul_;
  const OwnKernel& own_;
  size_t cache_bytes_ = 0;                                  ///< of the GPU's L2
  Buffer x_, out_, weights_, scales_, workspace_, hashes_;  ///< scales are ones
  std::unique_ptr<GraphTimer> timer_;
  std::vector<Order> orders_;  ///< of the shape that is being tuned; our own kernel's is not among them
};

}  // namespace pagoda::cuda

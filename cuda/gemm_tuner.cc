// Orders are told apart by results: the probe's products are what rounding leaves of sums that are zero (gemm_probe.h), and an
// algorithm counts as invariant when each row's bits are the same at the smallest, a middle and the largest number of tokens of
// a bucket, wherever the row stands. Buckets are tried from the largest one down, which knows the results of all rows.
#include "cuda/gemm_tuner.h"

#include <algorithm>
#include <utility>

#include "cuda/device_memory.h"
#include "cuda/gemm_probe.h"

namespace pagoda::cuda {
namespace {

constexpr int kOwnOrder = -1;
constexpr int kNoOrder = -2;
constexpr size_t kMostCopies = 128;
constexpr uint32_t kWeightSeed = 1;
constexpr uint32_t kInputSeed = 2;

/// Weights begin at multiples of 256 bytes, which four rows of 64 values keep.
int64_t copy_rows(const GemmShape& shape) { return (shape.rows + 3) / 4 * 4; }
size_t copy_bytes(const GemmShape& shape) { return matrix_value_bytes(shape.format, copy_rows(shape) * shape.stride); }

size_t l2_bytes() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device), "asking for the size of the cache");
  return static_cast<size_t>(bytes);
}

Buffer allocate(size_t bytes) { return DeviceMemory().allocate(bytes); }

}  // namespace

/// The bucket that is being tried.
struct GemmTuner::Bucket {
  const GemmShape& shape;
  int64_t min_tokens, max_tokens;
  std::vector<GemmTrial> trials;
};

GemmTuner::GemmTuner(const Queue& queue, LtMatmul& matmul, const OwnKernel& own, std::span<const GemmShape> shapes)
    : queue_(queue), matmul_(matmul), own_(own), cache_bytes_(l2_bytes()) {
  size_t x_bytes = 0, out_bytes = 0, weight_bytes = 0, workspace_bytes = 0;
  int64_t num_tokens = 0, num_rows = 0;
  for (const GemmShape& shape : shapes) {
    const auto tokens = static_cast<size_t>(shape.max_tokens);
    x_bytes = std::max(x_bytes, tokens * static_cast<size_t>(shape.cols) * sizeof(uint16_t));
    out_bytes = std::max(out_bytes, tokens * static_cast<size_t>(shape.rows) * dtype_bytes(shape.out));
    weight_bytes = std::max(weight_bytes, static_cast<size_t>(num_copies(shape)) * copy_bytes(shape));
    workspace_bytes = std::max(workspace_bytes, LtMatmul::workspace_bytes(shape.format, shape.max_tokens, shape.cols));
    num_tokens = std::max(num_tokens, shape.max_tokens);
    num_rows = std::max(num_rows, shape.rows);
  }
  x_ = allocate(x_bytes);
  out_ = allocate(out_bytes);
  weights_ = allocate(weight_bytes);
  workspace_ = allocate(workspace_bytes);
  hashes_ = allocate(static_cast<size_t>(num_tokens) * sizeof(uint64_t));
  const std::vector<float> ones(static_cast<size_t>(num_rows), 1.0f);
  scales_ = allocate(ones.size() * sizeof(float));
  check(cudaMemcpy(scales_.get(), ones.data(), ones.size() * sizeof(float), cudaMemcpyHostToDevice), "writing scales");
  check(cudaStreamCreateWithFlags(&queue_.stream, cudaStreamNonBlocking), "making a stream");
  timer_ = std::make_unique<GraphTimer>(queue_.stream);
}

GemmTuner::~GemmTuner() {
  cudaStreamSynchronize(queue_.stream);
  timer_.reset();
  cudaStreamDestroy(queue_.stream);
}

/// So many that a run finds nothing of its weight in the cache when it is its turn again.
int GemmTuner::num_copies(const GemmShape& shape) const {
  return static_cast<int>(std::clamp<size_t>(4 * cache_bytes_ / copy_bytes(shape) + 1, 1, kMostCopies));
}

GemmOperands GemmTuner::operands(const GemmShape& shape, int64_t num_tokens, int64_t first_row, int run) const {
  GemmOperands operands;
  operands.out = Tensor::dense(out_.get(), shape.out, {num_tokens, shape.rows});
  operands.x = Tensor::dense(static_cast<uint16_t*>(x_.get()) + first_row * shape.cols, DType::bf16, {num_tokens, shape.cols});
  const size_t copy = static_cast<size_t>(run % num_copies(shape));
  operands.weight = {.format = shape.format,
                     .rows = shape.rows,
                     .cols = shape.cols,
                     .stride = shape.stride,
                     .values = static_cast<char*>(weights_.get()) + copy * copy_bytes(shape),
                     .scales = shape.format == MatrixFormat::f8 ? scales_.get() : nullptr};
  return operands;
}

void GemmTuner::fill(const GemmShape& shape) {
  fill_probe(queue_, Tensor::dense(x_.get(), DType::bf16, {shape.max_tokens, shape.cols}), kInputSeed, false);
  const Shape weights{num_copies(shape) * copy_rows(shape), shape.cols};
  const DType type = shape.format == MatrixFormat::f8 ? DType::f8_e4m3 : DType::bf16;
  fill_probe(queue_, {weights_.get(), type, weights, shape.stride}, kWeightSeed, true);
}

/// hashes[i]: the rows' hashes of one run, see the file's head for which.
bool GemmTuner::hash_results(const Bucket& bucket, const lt::Algorithm& algorithm, std::vector<std::vector<uint64_t>>& hashes) {
  const int64_t all = bucket.shape.max_tokens, middle = (bucket.min_tokens + bucket.max_tokens) / 2;
  const std::pair<int64_t, int64_t> runs[] = {
      {bucket.max_tokens, 0}, {bucket.min_tokens, all - bucket.min_tokens}, {middle, (all - middle) / 2}};
  for (const auto& [num_tokens, first_row] : runs) {
    const GemmOperands product = operands(bucket.shape, num_tokens, first_row);
    if (!matmul_.supports(product, algorithm) || !matmul_.run(queue_, product, algorithm, workspace_.get())) return false;
    hash_rows(queue_, static_cast<uint64_t*>(hashes_.get()), product.out);
    std::vector<uint64_t> rows(static_cast<size_t>(all), 0);
    check(cudaMemcpyAsync(rows.data() + first_row, hashes_.get(), static_cast<size_t>(num_tokens) * sizeof(uint64_t),
                          cudaMemcpyDeviceToHost, queue_.stream),
          "reading hashes");
    check(cudaStreamSynchronize(queue_.stream), "trying a product");
    hashes.push_back(std::move(rows));
  }
  return true;
}

/// Number of the order in orders_ that the algorithm keeps to in this bucket, kNoOrder if none.
int GemmTuner::order_of(const Bucket& bucket, const lt::Algorithm& algorithm) {
  std::vector<std::vector<uint64_t>> hashes;
  if (!hash_results(bucket, algorithm, hashes)) return kNoOrder;
  const auto keeps_to = [&](const Order& order) {
    for (const std::vector<uint64_t>& rows : hashes) {
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] != 0 && rows[i] != order[i]) return false;
      }
    }
    return true;
  };
  for (size_t i = 0; i < orders_.size(); ++i) {
    if (keeps_to(orders_[i])) return static_cast<int>(i);
  }
  if (bucket.max_tokens < bucket.shape.max_tokens || !keeps_to(hashes[0])) return kNoOrder;
  orders_.push_back(std::move(hashes[0]));
  return static_cast<int>(orders_.size()) - 1;
}

/// What is slower than this can hardly win. A first try is measured with what the CPU needs to start it.
double GemmTuner::limit(const Bucket& bucket) const {
  double best = GraphTimer::Task().limit;
  for (const GemmTrial& trial : bucket.trials) best = std::min(best, trial.microseconds);
  return 2 * best + 20;
}

/// Whether the library computes the bucket's products by this algorithm.
bool GemmTuner::runs(const Bucket& bucket, const lt::Algorithm& algorithm) {
  for (const int64_t num_tokens : {bucket.min_tokens, (bucket.min_tokens + bucket.max_tokens) / 2, bucket.max_tokens}) {
    const GemmOperands product = operands(bucket.shape, num_tokens);
    if (!matmul_.supports(product, algorithm) || !matmul_.run(queue_, product, algorithm, workspace_.get())) return false;
  }
  return true;
}

void GemmTuner::try_own(Bucket& bucket) {
  if (!own_) return;
  const auto work = [&](int run) {
    const GemmOperands product = operands(bucket.shape, bucket.max_tokens, 0, run);
    own_(queue_, product.out, product.x, product.weight);
  };
  bucket.trials.push_back(
      {std::nullopt, timer_->microseconds({.work = work, .num_different = num_copies(bucket.shape)}), kOwnOrder});
}

void GemmTuner::try_algorithm(Bucket& bucket, const lt::Algorithm& algorithm) {
  GemmTrial trial{algorithm, 0, 0};
  if (queue_.deterministic) {
    trial.order = order_of(bucket, algorithm);
    if (trial.order == kNoOrder) return;
  } else if (!runs(bucket, algorithm)) {
    return;
  }
  const auto work = [&](int run) {
    const GemmOperands product = operands(bucket.shape, bucket.max_tokens, 0, run);
    if (!matmul_.run(queue_, product, algorithm, workspace_.get())) {
      throw DeviceError("cuBLASLt refuses an algorithm that it ran before");
    }
  };
  trial.microseconds = timer_->microseconds({.work = work, .num_different = num_copies(bucket.shape), .limit = limit(bucket)});
  bucket.trials.push_back(trial);
}

/// What the library proposes for the bucket; to be deterministic, also without split sums, and what was the fastest of each
/// order in the next larger bucket: then an order that is good for many tokens is tried for few.
std::vector<lt::Algorithm> GemmTuner::candidates(const Bucket& bucket, const std::vector<GemmTrial>& larger) {
  const GemmOperands product = operands(bucket.shape, bucket.max_tokens);
  std::vector<lt::Algorithm> all;
  const auto add = [&](const lt::Algorithm& algorithm) {
    if (std::ranges::find(all, algorithm) == all.end()) all.push_back(algorithm);
  };
  if (queue_.deterministic) {
    for (int order = 0; order < static_cast<int>(orders_.size()); ++order) {
      const GemmTrial* best = nullptr;
      for (const GemmTrial& trial : larger) {
        if (trial.order == order && (!best || trial.microseconds < best->microseconds)) best = &trial;
      }
      if (best && best->algorithm) add(*best->algorithm);
    }
    for (const lt::Algorithm& algorithm : matmul_.candidates(product, lt::kReductionNone)) add(algorithm);
  }
  for (const lt::Algorithm& algorithm : matmul_.candidates(product, lt::kReductionComputeType)) add(algorithm);
  return all;
}

GemmPlan GemmTuner::tune(const GemmShape& shape) {
  fill(shape);
  orders_.clear();
  const std::vector<int64_t> sizes = gemm_bucket_sizes(shape.max_tokens);
  std::vector<std::vector<GemmTrial>> trials(sizes.size());
  for (size_t i = sizes.size(); i-- > 0;) {
    Bucket bucket{shape, i ? sizes[i - 1] + 1 : 1, sizes[i], {}};
    try_own(bucket);
    const std::vector<GemmTrial> none;
    for (const lt::Algorithm& algorithm : candidates(bucket, i + 1 < sizes.size() ? trials[i + 1] : none)) {
      try_algorithm(bucket, algorithm);
    }
    trials[i] = std::move(bucket.trials);
  }
  const std::vector<size_t> chosen = queue_.deterministic ? choose_one_order(trials) : choose_fastest(trials);
  GemmPlan plan{shape, queue_.deterministic, {}};
  for (size_t i = 0; i < chosen.size(); ++i) plan.buckets.push_back({sizes[i], trials[i][chosen[i]].algorithm});
  return plan;
}

bool GemmTuner::run_once(const GemmPlan& plan) {
  for (const GemmBucket& bucket : plan.buckets) {
    if (!bucket.algorithm) continue;
    const GemmOperands product = operands(plan.shape, bucket.max_tokens);
    if (!matmul_.supports(product, *bucket.algorithm)) return false;
    if (!matmul_.run(queue_, product, *bucket.algorithm, workspace_.get())) return false;
  }
  check(cudaStreamSynchronize(queue_.stream), "running the chosen algorithms");
  return true;
}

}  // namespace pagoda::cuda

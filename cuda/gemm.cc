// Plans come from the cache of an earlier start or from the tuner; both must have run here before they are followed.
#include "cuda/gemm.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "cuda/gemm_cache.h"

namespace pagoda::cuda {
namespace {

/// Whether the weight and dense rows of x and of the output, as they are while the engine runs, suit cuBLASLt.
bool aligned(const GemmShape& shape) {
  GemmOperands operands;
  operands.x = Tensor::dense(nullptr, DType::bf16, {1, shape.cols});
  operands.out = Tensor::dense(nullptr, shape.out, {1, shape.rows});
  operands.weight.format = shape.format;
  operands.weight.rows = shape.rows;
  operands.weight.cols = shape.cols;
  return fits_cublaslt(operands);
}

/// Whether a plan from a file can be followed: with the buckets that a plan for the shape has, and without our own kernel if
/// there is none.
bool complete(const GemmPlan& plan, bool has_own) {
  const std::vector<int64_t> sizes = gemm_bucket_sizes(plan.shape.max_tokens);
  if (plan.buckets.empty()) return !has_own;
  return std::ranges::equal(plan.buckets, sizes, {}, &GemmBucket::max_tokens) &&
         (has_own || std::ranges::all_of(plan.buckets, [](const GemmBucket& bucket) { return bucket.algorithm.has_value(); }));
}

}  // namespace

void Gemm::prepare(const Queue& queue, std::span<const GemmShape> shapes, const GemmSetup& setup) {
  plans_.clear();
  std::vector<GemmShape> usable;
  std::ranges::copy_if(shapes, std::back_inserter(usable), aligned);
  if (usable.empty()) return;
  GemmCache cache(setup.cache_folder, {setup.device_name, setup.driver_version, matmul_.version()});
  GemmTuner tuner(queue, matmul_, setup.own_kernel, usable);
  bool changed = false;
  for (const GemmShape& shape : usable) {
    const GemmPlan* known = cache.find(shape, queue.deterministic);
    if (known && complete(*known, static_cast<bool>(setup.own_kernel)) && tuner.run_once(*known)) {
      plans_.push_back(*known);
      continue;
    }
    plans_.push_back(tuner.tune(shape));
    cache.put(plans_.back());
    changed = true;
  }
  if (changed) cache.save();
}

const GemmPlan* Gemm::plan(const GemmOperands& operands) const {
  const Matrix& weight = operands.weight;
  const auto found = std::ranges::find_if(plans_, [&](const GemmPlan& plan) {
    const GemmShape& shape = plan.shape;
    return shape.rows == weight.rows && shape.cols == weight.cols && shape.stride == weight.stride &&
           shape.out == operands.out.dtype && shape.format == weight.format;
  });
  return found == plans_.end() ? nullptr : &*found;
}

/// Null: our own kernel. More tokens than were planned for go the way of the last bucket.
const lt::Algorithm* Gemm::algorithm(const GemmOperands& operands) const {
  if (!fits_cublaslt(operands)) return nullptr;
  const GemmPlan* found = plan(operands);
  if (!found || found->buckets.empty()) return nullptr;
  for (const GemmBucket& bucket : found->buckets) {
    if (operands.out.rows() <= bucket.max_tokens) return bucket.algorithm ? &*bucket.algorithm : nullptr;
  }
  const GemmBucket& last = found->buckets.back();
  return last.algorithm ? &*last.algorithm : nullptr;
}

bool Gemm::takes(const GemmOperands& operands) const { return algorithm(operands) != nullptr; }

void Gemm::run(const Queue& queue, const GemmOperands& operands, const float* bias, void* workspace) {
  if (operands.out.rows() == 0) return;
  const lt::Algorithm* chosen = algorithm(operands);
  ensure(chosen, "a product was given to cuBLASLt that it does not take");
  if (!matmul_.run(queue, operands, *chosen, workspace)) {
    throw DeviceError(str("cuBLASLt refuses its algorithm for ", operands.out.rows(), " tokens and a weight of [",
                          operands.weight.rows, ", ", operands.weight.cols, "]"));
  }
  if (bias) add_bias(queue, operands.out, bias);
}

}  // namespace pagoda::cuda

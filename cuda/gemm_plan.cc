// The rules are searches over a few dozen trials.
#include "cuda/gemm_plan.h"

#include <limits>
#include <set>

namespace pagoda::cuda {
namespace {

constexpr size_t kNone = std::numeric_limits<size_t>::max();

/// The fastest trial that `counts`, kNone if none does.
template <class Counts>
size_t fastest(const std::vector<GemmTrial>& trials, const Counts& counts) {
  size_t best = kNone;
  for (size_t i = 0; i < trials.size(); ++i) {
    if (counts(trials[i]) && (best == kNone || trials[i].microseconds < trials[best].microseconds)) best = i;
  }
  return best;
}

}  // namespace

std::vector<int64_t> gemm_bucket_sizes(int64_t max_tokens) {
  std::vector<int64_t> sizes;
  for (int64_t size = 1; size < max_tokens; size = size == 1 ? 8 : 2 * size) sizes.push_back(size);
  sizes.push_back(max_tokens);
  return sizes;
}

std::vector<size_t> choose_fastest(std::span<const std::vector<GemmTrial>> buckets) {
  std::vector<size_t> chosen;
  for (const std::vector<GemmTrial>& trials : buckets) {
    chosen.push_back(fastest(trials, [](const GemmTrial&) { return true; }));
    if (chosen.back() == kNone) return {};
  }
  return chosen;
}

std::vector<size_t> choose_one_order(std::span<const std::vector<GemmTrial>> buckets) {
  const std::vector<size_t> ideal = choose_fastest(buckets);
  if (ideal.empty()) return {};
  std::set<int> orders;
  for (const GemmTrial& trial : buckets[0]) orders.insert(trial.order);
  std::vector<size_t> best;
  double best_slowdown = std::numeric_limits<double>::infinity();
  for (int order : orders) {
    std::vector<size_t> chosen;
    double slowdown = 0;
    for (size_t b = 0; b < buckets.size(); ++b) {
      const size_t i = fastest(buckets[b], [&](const GemmTrial& trial) { return trial.order == order; });
      if (i == kNone) break;
      chosen.push_back(i);
      slowdown += buckets[b][i].microseconds / buckets[b][ideal[b]].microseconds;
    }
    if (chosen.size() != buckets.size() || slowdown >= best_slowdown) continue;
    best = std::move(chosen);
    best_slowdown = slowdown;
  }
  return best;
}

}  // namespace pagoda::cuda

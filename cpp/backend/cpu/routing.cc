// Top-k by insertion, E compares for most logits; a softmax in the portable 16-lane kernels; and a counting sort.
#include "backend/cpu/routing.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "backend/cpu/simd.h"
#include "backend/cpu/simd_portable.h"

namespace pagoda::cpu {
namespace {

/// Orders logits as integers: -0 equals 0, NaN is on top.
int32_t order_of(float logit) {
  if (logit != logit) return std::numeric_limits<int32_t>::max();
  const auto bits = std::bit_cast<int32_t>(logit + 0.0f);  // -0 + 0 is 0
  return bits < 0 ? bits ^ std::numeric_limits<int32_t>::max() : bits;
}

/// experts[k] = the k largest of logits[n], the largest first, of equal ones the lower first.
void top_k(const float* logits, int32_t n, int32_t k, int32_t* experts) {
  for (int32_t e = 0; e < n; ++e) {
    const int32_t order = order_of(logits[e]);
    int32_t place = std::min(e, k);
    if (place == k && order <= order_of(logits[experts[k - 1]])) continue;
    for (place = std::min(place, k - 1); place > 0 && order > order_of(logits[experts[place - 1]]); --place) {
      experts[place] = experts[place - 1];
    }
    experts[place] = e;
  }
}

/// Sum of e^(logit - maximum) over n logits, in lanes of 16.
float sum_of_exponentials(const float* logits, int64_t n, float maximum) {
  Portable::Vec sum = Portable::zero();
  for_vectors(n, [&](int64_t i, int lanes) {
    const Portable::Vec logit = load_some<Portable>(logits + i, lanes);
    const Portable::Vec weight = exp<Portable>(Portable::sub(logit, Portable::set(maximum)));
    const Portable::Mask given = Portable::less(Portable::iota(), Portable::set(static_cast<float>(lanes)));
    sum = Portable::add(sum, Portable::select(given, weight, Portable::zero()));
  });
  return Portable::sum(sum);
}

float exponential(float x) { return Portable::first_lane(exp<Portable>(Portable::set(x))); }

}  // namespace

void choose_experts(const Routing& out, int64_t t, const float* logits, const RouteArgs& args) {
  const int32_t k = out.top_k;
  int32_t* experts = out.experts + t * k;
  float* weights = out.weights + t * k;
  top_k(logits, out.num_experts, k, experts);

  const float maximum = logits[experts[0]];
  float chosen_sum = 0;
  for (int32_t j = 0; j < k; ++j) {
    weights[j] = exponential(logits[experts[j]] - maximum);
    chosen_sum += weights[j];
  }
  const bool over_all = args.softmax_first && !args.normalise;
  const float sum = over_all ? sum_of_exponentials(logits, out.num_experts, maximum) : chosen_sum;
  for (int32_t j = 0; j < k; ++j) weights[j] = weights[j] / sum * args.scale;
}

void sort_pairs(const Routing& out) {
  const auto num_pairs = static_cast<int32_t>(out.num_pairs());
  // Entry e + 1 counts expert e's pairs, then holds where its next pair goes, and so in the end where its pairs end.
  int32_t* const next = out.expert_start + 1;
  std::fill_n(out.expert_start, out.num_experts + 1, 0);
  for (int32_t pair = 0; pair < num_pairs; ++pair) ++next[out.experts[pair]];
  int32_t begin = 0;
  for (int e = 0; e < out.num_experts; ++e) {
    const int32_t count = next[e];
    next[e] = begin;
    begin += count;
  }
  for (int32_t pair = 0; pair < num_pairs; ++pair) {
    const int32_t place = next[out.experts[pair]]++;
    out.pairs[place] = pair;
    out.places[pair] = place;
  }
}

float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace pagoda::cpu

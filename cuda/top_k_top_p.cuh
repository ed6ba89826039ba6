// The threshold of top-k, top-p and min-p: what they keep of a row is always {value >= threshold}, ties with it included. Found
// exactly, by integer counts and masses, either in a list of the likely tokens or in the whole row, by a block that has the row
// for itself.
#pragma once

#include "cuda/sample_block.cuh"
#include "cuda/sample_row.cuh"

namespace pagoda::cuda {

/// A row's filters; its values are divided by the temperature already.
struct Filters {
  int32_t top_k;  ///< 0 = off, else less than the vocabulary
  float top_p;    ///< 1 = off
  float max;      ///< largest value, finite
  Mass total;     ///< mass of all values; 0: not known
};

/// How far a value lies below the largest one in steps of 1/64, at most kSelectBins - 1, where masses are 0.
__device__ __forceinline__ uint32_t depth_of(float max, float value) {
  return static_cast<uint32_t>(fminf((max - value) * 64.0f, static_cast<float>(kSelectBins - 1)));
}

/// The largest key at or above `min_key` from which up the source weighs `need`; weigh(key) is a value's weight.
template <class Weight, class Weigh>
__device__ Selection<Weight> select_value(const ListSource& source, float max, uint32_t min_key, Weight need, BlockSpace& space,
                                          Weigh weigh) {
  return select_key<Weight>(::max(min_key, source.low), float_key(max), need, space, [&](auto add) {
    source.visit_all([&](uint32_t key, uint32_t) { add(key, [&] { return weigh(key); }); });
  });
}

/// The same in a whole row, first by depth, which spreads a row's values over many bins, then among those of one depth.
template <class Weight, class Weigh>
__device__ Selection<Weight> select_value(const RowSource& source, float max, uint32_t min_key, Weight need, BlockSpace& space,
                                          Weigh weigh) {
  constexpr uint32_t kDeepest = kSelectBins - 1;
  const Selection<Weight> level = select_key<Weight>(0, kDeepest, need, space, [&](auto add) {
    source.visit_all([&](uint32_t key, uint32_t) {
      if (key >= min_key) add(kDeepest - depth_of(max, float_of_key(key)), [&] { return weigh(key); });
    });
  });
  if (!level.reached) return level;
  const uint32_t depth = kDeepest - level.key;
  // Values of one depth lie between those of its neighbours. Those below `min_key` come last, when all that is needed is there.
  const float steps = static_cast<float>(depth);
  const uint32_t low = depth == kDeepest ? kLowestKey : float_key(max - (steps + 2) / 64);
  const uint32_t high = float_key(depth ? max - (steps - 1) / 64 : max);
  return select_key<Weight>(low, high, need - level.above, space, [&](auto add) {
    source.visit_all([&](uint32_t key, uint32_t) {
      if (depth_of(max, float_of_key(key)) == depth) add(key, [&] { return weigh(key); });
    });
  });
}

template <class Source>
__device__ Mass mass_above(const Source& source, float max, uint32_t threshold, BlockSpace& space) {
  Mass own = 0;
  source.visit_all([&](uint32_t key, uint32_t) {
    if (key >= threshold) own += fixed_mass(float_of_key(key), max);
  });
  return block_total(own, space);
}

/// Smallest key that survives top-k and top-p; 0 if all does. False if the source, a list, ends before top-p is reached. A list
/// must hold the top_k best values, or all that are not -infinity.
template <class Source>
__device__ bool find_threshold(const Source& source, const Filters& filters, BlockSpace& space, uint32_t& threshold) {
  threshold = 0;
  if (filters.top_k > 0) {
    const Selection<unsigned> kept = select_value<unsigned>(
        source, filters.max, kLowestKey, static_cast<unsigned>(filters.top_k), space, [](uint32_t) { return 1u; });
    if (kept.reached) threshold = kept.key;
  }
  if (filters.top_p < 1) {
    const Mass total = filters.total ? filters.total : mass_above(source, filters.max, threshold, space);
    const auto part = static_cast<Mass>(static_cast<double>(filters.top_p) * static_cast<double>(total));
    const Selection<Mass> kept =
        select_value<Mass>(source, filters.max, threshold, part < 1 ? Mass{1} : part, space,
                           [&](uint32_t key) -> Mass { return fixed_mass(float_of_key(key), filters.max); });
    if (!kept.reached) return false;
    threshold = kept.key;
  }
  return true;
}

/// The smallest value that min-p keeps.
__device__ __forceinline__ float min_p_value(const SampleRow& row, float max) {
  return row.min_p > 0 ? max + row.log_min_p : -INFINITY;
}

}  // namespace pagoda::cuda

// The online softmax of a tile of 64 scores for each row of an attention task: scores become weights in place.
#pragma once

#include "backend/cpu/attention_run.h"

namespace pagoda::cpu {

/// The tokens of a tile [lo, hi) that a row sees, none if lo >= hi.
struct SeenTokens {
  int lo, hi;
};
template <class S>
[[gnu::always_inline]] inline SeenTokens seen_tokens(const AttentionRun& run, int row, int64_t begin, int lo, int hi) {
  const int64_t row_lo = run.lo[row] - begin, row_hi = run.hi[row] - begin;
  return {row_lo > lo ? static_cast<int>(row_lo) : lo, row_hi < hi ? static_cast<int>(row_hi) : hi};
}

/// Applies the keys' scales (null: none) and the soft cap, hides what the row does not see and returns the row's largest score
/// in the groups [begin, end).
template <class S>
[[gnu::always_inline]] inline float mask_scores(float* scores, const float* scales, int begin, int end, SeenTokens seen,
                                                float soft_cap) {
  using V = typename S::Vec;
  const V hidden = S::set(-__builtin_inff());
  V best = hidden;
  if (!scales && soft_cap <= 0 && seen.lo <= begin * 16 && seen.hi >= end * 16) {
    for (int g = begin; g < end; ++g) best = S::max(S::load(scores + g * 16), best);
    return S::max_lane(best);
  }
  for (int g = begin; g < end; ++g) {
    V s = S::load(scores + g * 16);
    if (scales) s = S::mul(s, S::load(scales + g * 16));
    if (soft_cap > 0) s = S::mul(S::set(soft_cap), tanh<S>(S::div(s, S::set(soft_cap))));
    if (seen.lo > g * 16 || seen.hi < g * 16 + 16) {
      const V token = S::add(S::iota(), S::set(static_cast<float>(g * 16)));
      s = S::select(S::less(token, S::set(static_cast<float>(seen.hi))), s, hidden);
      s = S::select(S::less(token, S::set(static_cast<float>(seen.lo))), hidden, s);
    }
    S::store(scores + g * 16, s);
    best = S::max(s, best);
  }
  return S::max_lane(best);
}

/// Stores the weights of group g of a row in place of its scores, as bf16 with kDots, and returns them as stored.
template <class S, bool kDots>
[[gnu::always_inline]] inline typename S::Vec store_weights(float* scores, int g, typename S::Vec weights) {
  if constexpr (!kDots) {
    S::store(scores + g * 16, weights);
    return weights;
  } else {
    return S::store_for_dots(reinterpret_cast<uint16_t*>(scores) + g * 16, weights);  // over scores that are weights already
  }
}

/// Moves the rows' maxima in run.part to those of the tile, `best`, where they are larger, and sets run.correction to the
/// factors that the rows' acc and sums have to take.
template <class S>
[[gnu::always_inline]] inline void move_maxima(AttentionRun& run, const float* best) {
  using V = typename S::Vec;
  float* maxima = run.part + run.padded + 16;  // run.state apart
  for (int r = 0; r < run.rows; r += 16) {
    const int lanes = run.rows - r < 16 ? run.rows - r : 16;
    float rows[16] = {};
    for (int i = 0; i < lanes; ++i) rows[i] = maxima[(r + i) * run.state];
    const V old_maxima = S::load(rows), tile_maxima = S::load(best + r);
    const auto moved = S::less(old_maxima, tile_maxima);
    S::store(run.correction + r, S::select(moved, exp<S>(S::sub(old_maxima, tile_maxima)), S::set(1.0f)));
    S::store(rows, S::select(moved, tile_maxima, old_maxima));
    for (int i = 0; i < lanes; ++i) maxima[(r + i) * run.state] = rows[i];
  }
}

/// Turns a row's scores of the groups [begin, end) into weights exp(score - maximum) and adds them to the row's sums; what it
/// leaves is multiplied with the values' scales (null: none).
template <class S, bool kDots>
[[gnu::always_inline]] inline void weigh_scores(float* scores, const float* scales, int begin, int end, float correction,
                                                float* sums) {
  using V = typename S::Vec;
  V sum = S::mul(S::load(sums), S::set(correction));
  const V maximum = S::set(sums[16]);
  for (int g = begin; g < end; ++g) {
    const V below = S::sub(S::load(scores + g * 16), maximum);
    V weight;
    if constexpr (kDots) {
      weight = coarse_exp<S>(below);
    } else {
      weight = exp<S>(below);
    }
    if (scales) {
      sum = S::add(sum, weight);
      store_weights<S, kDots>(scores, g, S::mul(weight, S::load(scales + g * 16)));
    } else {
      sum = S::add(sum, store_weights<S, kDots>(scores, g, weight));
    }
  }
  S::store(sums, sum);
}

/// What a tile's scores become: floats, bf16 numbers for pairs or tiles, or floats that are such numbers.
enum class WeightForm { floats, pairs, tiles, rounded };

/// As weigh_scores, for what tiles or chains multiply: weights rounded to bf16, whose sum is taken before. The groups beside
/// [begin, end) that share 32 tokens with one of them get weights of zero.
template <class S, WeightForm kForm>
[[gnu::always_inline]] inline void weigh_and_round(float* scores, const float* scales, int begin, int end, float correction,
                                                   float* sums) {
  using V = typename S::Vec;
  const V maximum = S::set(sums[16]);
  V sum = S::mul(S::load(sums), S::set(correction));
  const auto weigh = [&](int g) __attribute__((always_inline)) {
    if (g < begin || g >= end) return S::zero();
    const V weight = coarse_exp<S>(S::sub(S::load(scores + g * 16), maximum));
    sum = S::add(sum, weight);
    return scales ? S::mul(weight, S::load(scales + g * 16)) : weight;
  };
  for (int g = begin & ~1; g < end; g += 2) {
    const V first = weigh(g), second = weigh(g + 1);
    if constexpr (kForm == WeightForm::tiles) {  // over scores that are weights already
      S::store_rounded(reinterpret_cast<uint16_t*>(scores) + g * 16, first, second);
    } else {
      S::store(scores + g * 16, S::round_to_bf16(first));
      S::store(scores + g * 16 + 16, S::round_to_bf16(second));
    }
  }
  S::store(sums, sum);
}

template <class S, WeightForm kForm>
[[gnu::always_inline]] inline void clear_weights(float* scores, int first, int last) {
  constexpr bool kBf16 = kForm == WeightForm::pairs || kForm == WeightForm::tiles;
  const bool whole = kForm == WeightForm::tiles;  // groups of 32
  for (int g = whole ? first & ~1 : first; g < (whole ? (last + 1) & ~1 : last); ++g) {
    store_weights<S, kBf16>(scores, g, S::zero());
  }
}

/// The online softmax of a tile's groups [first, last), of whose tokens [lo, hi) count. In three passes over the rows, none of
/// which waits for the row before.
template <class S, WeightForm kForm>
void softmax_tile(AttentionRun& run, int first, int last, int64_t begin, int lo, int hi) {
  alignas(64) float best[kAttentionRows];
  for (int r = 0; r < (run.rows + 15) / 16 * 16; ++r) best[r] = -__builtin_inff();
  const float *key_scales = run.scaled ? run.scales.keys : nullptr, *value_scales = run.scaled ? run.scales.values : nullptr;
  for (int r = 0; r < run.rows; ++r) {
    const SeenTokens seen = seen_tokens<S>(run, r, begin, lo, hi);
    float* scores = run.scores + r * kAttentionTile;
    if (seen.lo < seen.hi) best[r] = mask_scores<S>(scores, key_scales, first, last, seen, run.job->args.soft_cap);
  }
  move_maxima<S>(run, best);
  for (int r = 0; r < run.rows; ++r) {
    const SeenTokens seen = seen_tokens<S>(run, r, begin, lo, hi);
    float* scores = run.scores + r * kAttentionTile;
    float* sums = run.part + r * run.state + run.padded;
    const float correction = run.correction[r];
    if (seen.lo >= seen.hi) {
      clear_weights<S, kForm>(scores, first, last);
    } else if constexpr (kForm == WeightForm::tiles || kForm == WeightForm::rounded) {
      weigh_and_round<S, kForm>(scores, value_scales, first, last, correction, sums);
    } else {
      weigh_scores<S, kForm == WeightForm::pairs>(scores, value_scales, first, last, correction, sums);
    }
  }
}

}  // namespace pagoda::cpu

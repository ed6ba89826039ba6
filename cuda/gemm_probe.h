// Data on which orders of summation show, and fingerprints of results. Called by GemmTuner.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// Pseudo-random bf16 in (-1, 1), or e4m3 of all sizes, by `seed`, row and column; zeros behind the columns. The second half of
/// the columns repeats the first one, negated if `negated`: a product of a plain and a negated matrix is zero up to what
/// rounding leaves of its sums, and that differs, in almost every element, from one order of summation to another.
void fill_probe(const Queue& queue, const Tensor& matrix, uint32_t seed, bool negated);

/// hashes[i] = hash of the bits of row i (bf16 or f32), the same wherever the row lies.
void hash_rows(const Queue& queue, uint64_t* hashes, const Tensor& matrix);

}  // namespace pagoda::cuda

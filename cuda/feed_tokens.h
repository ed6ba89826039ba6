// The launchers of feed_tokens.cu.
#pragma once

#include <cstdint>

#include "cuda/queue.h"
#include "cuda/sample_work.h"

namespace pagoda::cuda {

/// drawn[r] = the token of row r, 0 if the row is invalid.
void keep_tokens(const Queue& queue, const SampleWork& work, int32_t* drawn);

/// ids[t] = drawn[sources[t]] for t in [0, n) with sources[t] >= 0.
void feed_tokens(const Queue& queue, int32_t* ids, const int32_t* sources, const int32_t* drawn, int64_t n);

}  // namespace pagoda::cuda

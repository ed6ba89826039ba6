// Splits a paged attention into tasks and runs them on the threads. Called by CpuBackend; the arithmetic is attention_kernel.h.
#pragma once

#include <cstddef>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

/// Scratch bytes of one paged_attention of `num_tokens` queries with contexts of at most `max_context` tokens. Pure; grows with
/// both.
size_t attention_workspace(int64_t num_tokens, int64_t max_context, const AttentionArgs& args);

/// `workspace`: attention_workspace(num_tokens, max_kv_len, args) bytes. `scratch`: for each thread
/// attention_scratch_floats(kAttentionMaxHeadDim) floats. The result's bits do not depend on how the work was split.
void paged_attention(const Kernels& kernels, ThreadPool& pool, const AttentionJob& job, void* workspace, float* scratch);

}  // namespace pagoda::cpu

// The matrix product of the CPU backend: out = x * weight^T + bias for every weight format and every number of rows, and the
// embedding look-up in the same packed weights. Called by CpuBackend; the inner kernels are linear_<isa>.cc, the layout is
// pack.h.
#pragma once

#include <span>

#include "backend/cpu/linear_kernels.h"
#include "backend/cpu/pack.h"
#include "backend/weight.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

/// The kernels of an instruction set that isa_supported() admits. Builds for other CPUs than x86-64 have only `portable`.
const LinearKernels& linear_kernels(Isa isa);

/// Scratch bytes of one `linear` of `num_tokens` rows, at most: the quantised or rounded input. Pure, the same for every ISA.
size_t linear_workspace(int64_t num_tokens, int64_t rows, int64_t cols, std::span<const WeightFormat> formats);

/// out[T, N] = x[T, K] * weight[N, K]^T + bias[N] (or null). f32, rows may be strided; `workspace` is 64-byte aligned.
///
/// Arithmetic: f32 and f16 weights times f32 input. bf16 weights times f32 input, or times input rounded to bf16 where
/// kernels.rounds_to_bf16. Quantised weights times input quantised to 15 bits per row and block of 32 (QuantBlock); the integer
/// products of a block are exact. Each element is one f32 accumulator over K in order: its bits depend on neither T nor the
/// number of threads, and for quantised, f32 and f16 weights avx2 and avx512 agree.
void linear(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x, const Weight& weight,
            const float* bias, void* workspace);

/// out[T, H] (f32) = rows ids[T] of table[V, H], dequantised. 0 <= ids[i] < V.
void embed(ThreadPool& pool, const Tensor& out, const Weight& table, const int32_t* ids);

}  // namespace pagoda::cpu

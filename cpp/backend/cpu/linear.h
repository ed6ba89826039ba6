// The matrix product of the CPU backend: out = x * weight^T + bias for every weight format and every number of rows, and the
// embedding look-up in the same packed weights. Called by CpuBackend; the inner kernels are linear_<isa>.cc, the layout is
// pack.h.
#pragma once

#include <span>

#include "backend/cpu/input_precision.h"
#include "backend/cpu/linear_kernels.h"
#include "backend/cpu/pack.h"
#include "backend/weight.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace pagoda::cpu {

/// Input elements below which preparing the input is not worth a parallel region of its own.
constexpr int64_t kSerialElements = 8192;
/// Input bytes of the rows that one task takes through its panels: they stay in the L2 cache.
constexpr size_t kRowBlockBytes = size_t{384} << 10;
/// The same where panels are unpacked for each task.
constexpr size_t kSpanBlockBytes = size_t{1} << 20;

/// The kernels of an instruction set that isa_supported() admits. Builds for other CPUs than x86-64 have only `portable`.
LinearKernels linear_kernels(Isa isa, InputPrecision precision);

/// Scratch bytes of one `linear` of `num_tokens` rows, at most: the quantised or rounded input. Pure, the same for every ISA
/// and precision.
size_t linear_workspace(int64_t num_tokens, int64_t rows, int64_t cols, std::span<const WeightFormat> formats);

/// A product's input rows in the forms that the parts of a weight are multiplied with.
struct LinearInput {
  Tensor x;                         ///< [T, K] f32, read by the parts that need neither other form
  QuantBlock* quantised = nullptr;  ///< [tiles][K/32][rows of the tile], or null
  QuantBytes* low = nullptr;        ///< the low bytes, likewise, or null
  Outlier* outliers = nullptr;      ///< the tiles' lists, outlier_places() apart, or null
  uint16_t* rounded = nullptr;      ///< bf16 rows [T][ceil(K/32)][32], zero past K, or as SpanArgs has them; or null
};

struct RowRange {
  int64_t begin, end;
};

/// Panels [panel_begin, panel_end) of the whole weight times `rows`, which begin at a multiple of unit_rows.
struct LinearTask {
  int64_t panel_begin, panel_end;
  RowRange rows;
};

/// Rows that are whole tiles in each of the forms that `formats` are multiplied with.
int64_t unit_rows(const LinearKernels& kernels, std::span<const WeightFormat> formats);

/// Rows that one task takes through its panels, at most, but for what is missing to a multiple of unit_rows.
int64_t most_task_rows(const LinearKernels& kernels, std::span<const WeightFormat> formats, int64_t cols);

struct LinearOutput {
  Tensor out;         ///< [T, rows of the parts] f32
  const float* bias;  ///< [rows of the parts] or null
};

/// Lays the forms of x[T, K] that `formats` need out in `workspace`, without filling them.
LinearInput place_input(const LinearKernels& kernels, const Tensor& x, std::span<const WeightFormat> formats, void* workspace);

/// Fills the forms of input row `row` from the K values at `x`. Tiles begin with `block`, whose rows one thread prepares in
/// order.
void prepare_row(const LinearKernels& kernels, const LinearInput& input, const float* x, int64_t row, RowRange block);

/// Multiplies the task's prepared rows with those of its panels that lie in `parts`, neighbours in one weight, of which the
/// first one's first row is column 0 of the output.
void run_task(const LinearKernels& kernels, const LinearTask& task, const LinearOutput& out, const LinearInput& input,
              std::span<const PackedPart> parts);

/// out[T, N] = x[T, K] * weight[N, K]^T + bias[N] (or null). f32, rows may be strided; `workspace` is 64-byte aligned.
///
/// Arithmetic: f32, f16 and f8_e4m3 weights times f32 input, the last as unpack_row gives them. bf16 weights times f32 input,
/// or times input rounded to bf16 where kernels.rounds_to_bf16. All other weights times input quantised per row and block of 32
/// (QuantBlock, InputPrecision); the integer products of a block, or of its halves where those have scales of their own, are
/// exact. Formats with a span kernel: weights, as unpack_row gives them and rounded to bf16, times input rounded to bf16, in
/// the order of AmxTiles. Each element is one f32 accumulator over K in order, then over what was taken out of the blocks
/// (Outlier): its bits depend on neither T nor the number of threads, and for all but bf16 weights and inputs avx2 and avx512
/// agree. A NaN or infinity makes the row or column that it stands in NaN or infinite, no other. Scales of mxfp4 below 2^-126
/// count as zero.
void linear(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x, const Weight& weight,
            const float* bias, void* workspace);

/// Rows of a gated MLP that go through all of its steps together, at most: a multiple of what unit_rows can be.
constexpr int64_t kMlpRows = 192;

/// out[T, H] = Backend::gated_mlp. Of mlp.gate_up it uses kMlpRows rows at most.
void gated_mlp(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x, const GatedMlp& mlp,
               const GateRows& how);

/// out[T, H] (f32) = rows ids[T] of table[V, H], dequantised. 0 <= ids[i] < V.
void embed(ThreadPool& pool, const Tensor& out, const Weight& table, const int32_t* ids);

}  // namespace pagoda::cpu

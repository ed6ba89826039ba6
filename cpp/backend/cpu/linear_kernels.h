// What the inner kernels of the matrix product look like: the quantised form of the input, the arguments of one tile, and the
// table of functions that each instruction set fills (linear_{portable,avx2,avx512}.cc from linear_tile.h). linear.cc walks the
// tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/isa.h"
#include "core/weight_format.h"

namespace pagoda::cpu {

constexpr int kMaxTileRows = 8;  ///< input rows of the largest tile

/// Largest |q| of a quantised input, and the weight of its high byte: q = 128 * high + low with high in [-127, 127] and low in
/// [-64, 63]. Two byte products instead of one, which share the unpacked weights and the conversion to float: against the same
/// weights in full precision the mean logprob error of SmolLM2 Q4_1 is 0.06 with 8-bit input and 0.0005 with this (f32 KV
/// cache).
constexpr int32_t kMaxQuant = 127 * 128;
constexpr int kHighShift = 7;

/// 32 values of one input row: value = scale * q, |q| <= kMaxQuant. All fields are NaN or arbitrary integers when one of the
/// values is NaN or infinite, so that the product is NaN too.
struct QuantBlock {
  int32_t high[8];        ///< high bytes of q, four to a word, the first in the lowest byte
  int32_t low[8];         ///< low bytes of q
  float scale;            ///< max|x| / kMaxQuant
  float scaled_sum;       ///< scale * sum(q), the factor of a minimum
  int32_t minus_8_sum;    ///< -8 * sum(q): undoes the bias of q4_0 codes
  int32_t minus_128_sum;  ///< -128 * sum(q): undoes the bias of 8-bit codes
  int32_t half_sum[2];    ///< sum(q) of the first and the last 16 values, which some formats scale apart
};

/// Whether weights of this format are multiplied with QuantBlocks; the others take floats (bf16: see rounds_to_bf16).
constexpr bool takes_quantised_input(WeightFormat format) { return is_quantised(format) && format != WeightFormat::f8_e4m3; }

/// One tile: up to kMaxTileRows input rows times one panel of 16 weight rows, over all of K.
struct TileArgs {
  const std::byte* panel;  ///< see pack.h
  const std::byte* ahead;  ///< what to fetch into the cache meanwhile: one part in `ahead_share` of a panel's bytes
  int64_t ahead_share;     ///< tiles that share the fetching of one panel
  int64_t cols;            ///< K
  const void* x;           ///< float rows, bf16 rows, or QuantBlock [K/32][tile rows]
  int64_t x_stride;        ///< elements between float or bf16 rows; unused for QuantBlock
  float* out;              ///< first output element
  int64_t out_stride;      ///< elements between output rows
  const float* bias;       ///< of the panel's first column, or null
  int width;               ///< columns of the panel that exist, 1..16
};

using TileKernel = void (*)(const TileArgs& args);

/// One table per instruction set. Every output element is summed in order of K in one accumulator, whatever the tile: its bits
/// do not depend on how many rows are multiplied with it.
struct LinearKernels {
  Isa isa;
  int tile_rows;        ///< rows of a full tile, <= kMaxTileRows
  bool rounds_to_bf16;  ///< bf16 weights are multiplied with bf16 input (else with f32 input)
  /// out[b * stride] = block b of x[cols]; cols is a multiple of 32.
  void (*quantise_row)(const float* x, int64_t cols, QuantBlock* out, int64_t stride);
  /// out[cols rounded up to even] = x[cols] rounded to nearest even; padded with zero.
  void (*round_row)(const float* x, int64_t cols, uint16_t* out);
  /// [format][rows - 1]
  TileKernel tile[kNumWeightFormats][kMaxTileRows];
};

const LinearKernels& linear_kernels_portable();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();

}  // namespace pagoda::cpu

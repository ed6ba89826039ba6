// What the inner kernels of the matrix product look like: the quantised form of the input, the arguments of one tile, and the
// table of functions that each instruction set fills (linear_{portable,avx2,avx512}.cc from linear_tile.h, linear_amx.cc).
// linear.cc walks the tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/input_precision.h"
#include "backend/cpu/isa.h"
#include "core/weight_format.h"

namespace pagoda::cpu {

constexpr int kMaxTileRows = 8;  ///< input rows of the largest tile
constexpr int kMinPairRows = 4;  ///< rows from which on pairs of panels gain: fewer are bound by reading the panels

/// Eight words of four signed bytes each, the first in the lowest byte, and their sums.
struct QuantBytes {
  int32_t quads[8];
  int32_t minus_8_sum;    ///< -8 * sum: undoes the bias of q4_0 codes
  int32_t minus_128_sum;  ///< -128 * sum: undoes the bias of 8-bit codes
  int32_t half_sum[2];    ///< of the first and the last 16 values, which some formats scale apart
};

/// 32 values of one input row: value = scale * (high + low / 128) with high bytes in [-127, 127] and, if the precision has
/// them, low ones in [-64, 63], QuantBytes that lie elsewhere. Outliers that were taken out are zero. All fields are NaN or
/// arbitrary integers when one of the values is NaN or infinite, so that the product is NaN too.
struct alignas(64) QuantBlock : QuantBytes {
  float scale;       ///< max|x| / 127
  float scaled_sum;  ///< scale * sum(high + low / 128), the factor of a minimum
};

/// A value that dwarfs the others of its block: taken out of it and multiplied as it is. The outliers of a tile's rows are a
/// list, by row and block and within a block the largest first, behind an element whose `col` is their number.
struct Outlier {
  int32_t col;
  int32_t row;  ///< of the tile
  float value;
};
/// Of one block, at most.
constexpr int kMaxOutliers = 3;
/// Elements of the list of `num_rows` rows of `cols` values, at most.
constexpr int64_t outlier_places(int64_t num_rows, int64_t cols) { return num_rows * (cols / 32 * kMaxOutliers + 1); }

/// Where one row of a tile goes: block b to blocks[b * stride], likewise its low bytes.
struct QuantisedRow {
  QuantBlock* blocks;
  QuantBytes* low;    ///< null: there are none
  Outlier* outliers;  ///< the tile's list, to append to; null: none are taken out
  int64_t stride;     ///< rows of the tile
  int32_t row;        ///< of the tile
};

/// Whether weights of this format are multiplied with QuantBlocks where no tile unit multiplies them as bf16; the others take
/// floats (bf16: see rounds_to_bf16).
constexpr bool takes_quantised_input(WeightFormat format) { return is_quantised(format) && format != WeightFormat::f8_e4m3; }

/// One tile: up to kMaxTileRows input rows times one or two panels of 16 weight rows, over all of K.
struct TileArgs {
  const std::byte* panel;  ///< see pack.h; a second one follows the first
  size_t panel_bytes;
  const std::byte* ahead;   ///< what to fetch into the cache meanwhile: one part in `ahead_share` of the panels' bytes
  int64_t ahead_share;      ///< tiles that share the fetching of the next panels
  int64_t cols;             ///< K
  const void* x;            ///< float rows, bf16 rows, or QuantBlocks [K/32][tile rows]
  const QuantBytes* low;    ///< the low bytes of the QuantBlocks, likewise, or null
  const Outlier* outliers;  ///< what was taken out of the QuantBlocks, or null
  int64_t x_stride;         ///< elements between float or bf16 rows; unused for QuantBlock
  float* out;               ///< first output element
  int64_t out_stride;       ///< elements between output rows
  const float* bias;        ///< of the panel's first column, or null
  int width;                ///< columns of the last panel that exist, 1..16
};

using TileKernel = void (*)(const TileArgs& args);

/// out[n] = activation(gate) * up
struct GateRows {
  void (*activate)(float* out, const float* gate, const float* up, int64_t n, Activation activation);
  Activation activation;
};

/// How a product of gates and ups becomes one of activations: the span's panels hold gates, and for each there is a panel of
/// ups.
struct SpanGate {
  size_t up_offset;  ///< bytes from a panel of gates to that of ups
  GateRows how;
  const float* up_bias;  ///< of the first column, or null
  uint16_t* rounded;     ///< where the span's rows go instead of `out`: as bf16, in the form of SpanArgs::x
  int64_t rounded_cols;  ///< of that form, a multiple of 32
  int64_t column;        ///< of that form: the span's first
};

/// A run of panels times a run of tiles of input rows, for kernels that unpack a panel once for all rows.
struct SpanArgs {
  const std::byte* panels;  ///< see pack.h
  size_t panel_bytes;
  int64_t num_panels;
  int64_t num_columns;  ///< that the panels hold: the last ones may be missing
  int64_t cols;         ///< K
  const uint16_t* x;    ///< bf16 [tiles][ceil(K/32)][rows of the tile][32], zero past K
  int64_t num_rows;
  float* out;            ///< first output element; null with a gate
  int64_t out_stride;    ///< elements between output rows
  const float* bias;     ///< of the first column, or null
  const SpanGate* gate;  ///< null: none
};

constexpr int64_t kMostSpanRows = 576;  ///< of a span

using SpanKernel = void (*)(const SpanArgs& args);

/// One table per instruction set. Every output element is summed in order of K in one
/// accumulator, the outliers last, whatever the tile: its bits do not depend on how many rows are multiplied with it.
struct LinearKernels {
  Isa isa;
  int tile_rows;        ///< rows of a full tile, <= kMaxTileRows
  bool rounds_to_bf16;  ///< bf16 weights are multiplied with bf16 input (else with f32 input)
  /// Quantises x[cols], cols a multiple of 32.
  void (*quantise_row)(const float* x, int64_t cols, const QuantisedRow& to);
  /// Rounds x[cols] to nearest even, 32 values to each of out, out + stride and so on; zero past cols.
  void (*round_row)(const float* x, int64_t cols, uint16_t* out, int64_t stride);
  /// [format][rows - 1], for one panel
  TileKernel tile[kNumWeightFormats][kMaxTileRows];
  /// The same for two, which load each input value once for both; null where that gains nothing.
  TileKernel pair[kNumWeightFormats][kMaxTileRows];
  /// Instead of tiles: products of weights, rounded to bf16, with input rounded to bf16. Null: tile by tile.
  SpanKernel span[kNumWeightFormats];
  int span_rows;             ///< rows of a full tile of SpanArgs::x; 0: no spans
  InputPrecision precision;  ///< set by linear_kernels()
};

/// What weights of a format are multiplied with.
enum class InputForm : uint8_t { floats, rounded, quantised };
constexpr InputForm input_form(const LinearKernels& kernels, WeightFormat format) {
  if (kernels.span[static_cast<int>(format)]) return InputForm::rounded;
  if (takes_quantised_input(format)) return InputForm::quantised;
  return format == WeightFormat::bf16 && kernels.rounds_to_bf16 ? InputForm::rounded : InputForm::floats;
}

const LinearKernels& linear_kernels_portable();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx2_vnni();
const LinearKernels& linear_kernels_avx512();
/// AVX-512's, but that bf16 weights are multiplied in tiles, or all that are not f32, f16 or f8_e4m3.
LinearKernels linear_kernels_amx(bool all);

}  // namespace pagoda::cpu

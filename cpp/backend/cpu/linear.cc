// Walks a product: prepares the input once, cuts weight panels and input rows into tasks, and calls the kernels tile by tile.
// Threads share out columns and rows, never K.
#include "backend/cpu/linear.h"

#include <algorithm>

#include "backend/cpu/shares.h"
#include "core/check.h"

namespace pagoda::cpu {
namespace {

/// The smallest tasks read so many weight bytes or have so many multiply-adds, a microsecond or more: claiming them does not
/// cost.
constexpr int64_t kLeastBytes = int64_t{16} << 10;
constexpr int64_t kLeastProducts = int64_t{256} << 10;

/// How far ahead a lone tile fetches its panel: more than the memory's latency times one core's share of its bandwidth.
constexpr size_t kAheadBytes = 4096;

/// Cuts `count` into the fewest parts of at most about `most`: the size of one part, a multiple of `unit`.
constexpr int64_t even_share(int64_t count, int64_t most, int64_t unit) {
  return ceil_div(ceil_div(count, ceil_div(count, most)), unit) * unit;
}

/// Elements between rows of the rounded input.
constexpr int64_t rounded_stride(int64_t cols) { return ceil_div(cols, 2) * 2; }

bool any_quantised(std::span<const WeightFormat> formats) {
  return std::any_of(formats.begin(), formats.end(), takes_quantised_input);
}
bool any_bf16(std::span<const WeightFormat> formats) {
  return std::find(formats.begin(), formats.end(), WeightFormat::bf16) != formats.end();
}

size_t quantised_bytes(int64_t num_tokens, int64_t cols) {
  const size_t low = static_cast<size_t>(num_tokens * (cols / 32)) * sizeof(QuantBytes);
  const size_t outliers = static_cast<size_t>(outlier_places(num_tokens, cols)) * sizeof(Outlier);
  return round_up(static_cast<size_t>(num_tokens * (cols / 32)) * sizeof(QuantBlock) + std::max(low, outliers));
}

LinearInput prepare_input(const LinearKernels& kernels, ThreadPool& pool, const Tensor& x,
                          std::span<const WeightFormat> formats, void* workspace) {
  const LinearInput input = place_input(kernels, x, formats, workspace);
  if (!input.quantised && !input.rounded) return input;

  const int64_t num_rows = x.shape[0];
  const auto prepare = [&](int64_t tile, int) {
    const int64_t begin = tile * kernels.tile_rows, end = std::min<int64_t>(begin + kernels.tile_rows, num_rows);
    for (int64_t row = begin; row < end; ++row) prepare_row(kernels, input, x.row<const float>(row), row, {begin, end});
  };
  const int64_t num_tiles = ceil_div(num_rows, kernels.tile_rows);
  if (num_rows * x.cols() <= kSerialElements) {
    for (int64_t tile = 0; tile < num_tiles; ++tile) prepare(tile, 0);
  } else {
    pool.run(num_tiles, prepare);
  }
  return input;
}

/// Points `args` at the input rows that begin a tile, in the form that `format` is multiplied with.
void set_input(TileArgs& args, const LinearInput& input, WeightFormat format, int64_t row) {
  if (takes_quantised_input(format)) {
    args.x = input.quantised + row * (args.cols / 32);
    if (input.low) args.low = input.low + row * (args.cols / 32);
    if (input.outliers) args.outliers = input.outliers + outlier_places(row, args.cols);
  } else if (format == WeightFormat::bf16 && input.rounded) {
    args.x_stride = rounded_stride(args.cols);
    args.x = input.rounded + row * args.x_stride;
  } else {
    args.x_stride = input.x.row_stride;
    args.x = input.x.row<const float>(row);
  }
}

/// Lets tile `tile` of the panels' `num_tiles` fetch its share of as many bytes, `bytes`, behind them; a lone tile fetches a
/// little ahead of itself.
void set_ahead(TileArgs& args, size_t bytes, int64_t tile, int64_t num_tiles) {
  args.ahead_share = num_tiles;
  args.ahead =
      args.panel + (num_tiles == 1 ? kAheadBytes : bytes + bytes * static_cast<size_t>(tile) / static_cast<size_t>(num_tiles));
}

/// Multiplies one or two panels that hold `columns` columns or more. `args` is written to, field by field: a copy would wait
/// for the fields' stores, and those for all that the tile before has asked of the memory.
void run_tile(TileKernel one, TileKernel two, TileArgs& args, int64_t num_panels, int64_t columns) {
  const auto width = [&](int64_t panel) { return static_cast<int>(std::min(columns - panel * kPanelRows, kPanelRows)); };
  if (num_panels == 2 && two) {
    args.width = width(1);
    return two(args);
  }
  const std::byte* first = args.panel;
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    args.width = width(panel);
    one(args);
    args.panel += args.panel_bytes;
    args.ahead += args.panel_bytes / static_cast<size_t>(args.ahead_share);
    args.out += kPanelRows;
    if (args.bias) args.bias += kPanelRows;
  }
  args.panel = first;
  if (args.bias) args.bias -= num_panels * kPanelRows;
}

}  // namespace

LinearKernels linear_kernels(Isa isa, InputPrecision precision) {
  const auto table = [isa]() -> const LinearKernels& {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return linear_kernels_avx512();
    if (isa == Isa::avx2_vnni) return linear_kernels_avx2_vnni();
    if (isa == Isa::avx2) return linear_kernels_avx2();
#endif
    ensure(isa == Isa::portable, "this build has no kernels for ", isa_name(isa));
    return linear_kernels_portable();
  };
  LinearKernels kernels = table();
  kernels.precision = precision;
  return kernels;
}

InputPrecision parse_input_precision(std::string_view word) {
  if (word == "auto") return InputPrecision::mixed;
  if (word == "int8") return InputPrecision::int8;
  require(word == "int16", "activation_dtype must be one of auto, int8, int16, got ", word);
  return InputPrecision::int16;
}

size_t linear_workspace(int64_t num_tokens, int64_t /*rows*/, int64_t cols, std::span<const WeightFormat> formats) {
  size_t bytes = 0;
  if (any_quantised(formats)) bytes += quantised_bytes(num_tokens, cols);
  if (any_bf16(formats)) bytes += round_up(static_cast<size_t>(num_tokens * rounded_stride(cols)) * sizeof(uint16_t));
  return bytes;
}

LinearInput place_input(const LinearKernels& kernels, const Tensor& x, std::span<const WeightFormat> formats, void* workspace) {
  LinearInput input{x};
  std::byte* next = static_cast<std::byte*>(workspace);
  if (any_quantised(formats)) {
    input.quantised = reinterpret_cast<QuantBlock*>(next);
    void* extras = input.quantised + x.shape[0] * (x.cols() / 32);
    if (kernels.precision == InputPrecision::int16) input.low = static_cast<QuantBytes*>(extras);
    if (kernels.precision == InputPrecision::mixed) input.outliers = static_cast<Outlier*>(extras);
    next += quantised_bytes(x.shape[0], x.cols());
  }
  if (kernels.rounds_to_bf16 && any_bf16(formats)) input.rounded = reinterpret_cast<uint16_t*>(next);
  return input;
}

void prepare_row(const LinearKernels& kernels, const LinearInput& input, const float* x, int64_t row, RowRange tile) {
  const int64_t cols = input.x.cols();
  if (input.quantised) {
    const int64_t first = tile.begin * (cols / 32) + (row - tile.begin);
    const QuantisedRow to{input.quantised + first, input.low ? input.low + first : nullptr,
                          input.outliers ? input.outliers + outlier_places(tile.begin, cols) : nullptr, tile.end - tile.begin,
                          static_cast<int32_t>(row - tile.begin)};
    if (to.outliers && row == tile.begin) to.outliers->col = 0;
    kernels.quantise_row(x, cols, to);
  }
  if (input.rounded) kernels.round_row(x, cols, input.rounded + row * rounded_stride(cols));
}

void run_task(const LinearKernels& kernels, const LinearTask& task, const LinearOutput& out, const LinearInput& input,
              std::span<const PackedPart> parts) {
  const auto [row_begin, row_end] = task.rows;
  const int64_t num_tiles = ceil_div(row_end - row_begin, kernels.tile_rows);
  for (const PackedPart& part : parts) {
    const int64_t begin = std::max<int64_t>(task.panel_begin - part.panel_begin, 0);
    const int64_t end = std::min(task.panel_end - part.panel_begin, part.num_panels());
    const TileKernel* one = kernels.tile[static_cast<int>(part.format)];
    const TileKernel* two = kernels.pair[static_cast<int>(part.format)];
    const bool has_pairs = two[std::min<int64_t>(row_end - row_begin, kernels.tile_rows) - 1] != nullptr;
    int64_t num_panels = 1;
    for (int64_t panel = begin; panel < end; panel += num_panels) {
      num_panels = has_pairs ? std::min<int64_t>(end - panel, 2) : 1;
      const int64_t column = part.row_begin - parts[0].row_begin + panel * kPanelRows;
      TileArgs args{};
      args.panel = part.panels + static_cast<size_t>(panel) * part.panel_bytes;
      args.panel_bytes = part.panel_bytes;
      args.cols = input.x.cols();
      args.out_stride = out.out.row_stride;
      args.bias = out.bias ? out.bias + column : nullptr;
      for (int64_t row = row_begin; row < row_end; row += kernels.tile_rows) {
        const auto rows = static_cast<size_t>(std::min<int64_t>(row_end - row, kernels.tile_rows));
        set_input(args, input, part.format, row);
        set_ahead(args, static_cast<size_t>(num_panels) * part.panel_bytes, (row - row_begin) / kernels.tile_rows, num_tiles);
        args.out = out.out.row<float>(row) + column;
        run_tile(one[rows - 1], two[rows - 1], args, num_panels, part.rows - panel * kPanelRows);
      }
    }
  }
}

void linear(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x, const Weight& weight,
            const float* bias, void* workspace) {
  const int64_t num_rows = x.shape[0];
  if (num_rows == 0) return;
  const PackedWeight& packed = PackedWeight::of(weight);
  const LinearInput input = prepare_input(kernels, pool, x, weight.part_formats, workspace);

  const int64_t tile_rows = kernels.tile_rows;
  const int64_t most_rows = static_cast<int64_t>(kRowBlockBytes / sizeof(float)) / x.cols();
  const int64_t block_rows = even_share(num_rows, std::max(most_rows, tile_rows), tile_rows);
  const int64_t num_blocks = ceil_div(num_rows, block_rows);
  const int64_t unit_panels = num_rows >= kMinPairRows ? 2 : 1;
  const int64_t block_units = ceil_div(packed.num_panels, unit_panels);
  const int64_t unit_bytes = static_cast<int64_t>(weight.bytes) / block_units;
  const int64_t unit_products = std::min(block_rows, num_rows) * unit_panels * kPanelRows * x.cols();
  const int64_t least = std::min(ceil_div(kLeastBytes, unit_bytes), ceil_div(kLeastProducts, unit_products));
  const Shares shares(num_blocks * block_units, pool.num_threads(), least);

  pool.run(shares.count(), [&](int64_t i, int) {
    auto [unit, end] = shares[i];
    for (int64_t next; unit < end; unit = next) {
      const int64_t block = unit / block_units, first = unit % block_units;
      next = std::min(end, (block + 1) * block_units);
      const int64_t panel_end = std::min((first + next - unit) * unit_panels, packed.num_panels);
      const LinearTask task{first * unit_panels, panel_end, {block * block_rows, std::min((block + 1) * block_rows, num_rows)}};
      run_task(kernels, task, {out, bias}, input, packed.parts);
    }
  });
}

void embed(ThreadPool& pool, const Tensor& out, const Weight& table, const int32_t* ids) {
  const PackedWeight& packed = PackedWeight::of(table);
  const auto copy_row = [&](int64_t i, int) {
    const PackedPart* part = packed.parts.data();
    while (ids[i] >= part->row_begin + part->rows) ++part;
    unpack_row(*part, ids[i] - part->row_begin, table.cols, out.row<float>(i));
  };
  if (out.shape[0] * table.cols <= kSerialElements) {
    for (int64_t i = 0; i < out.shape[0]; ++i) copy_row(i, 0);
  } else {
    pool.run(out.shape[0], copy_row);
  }
}

}  // namespace pagoda::cpu

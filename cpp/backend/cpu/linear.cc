// Walks a product: prepares the input once, cuts weight panels and input rows into tasks, and calls the kernels tile by tile.
// Threads share out columns and rows, never K.
#include "backend/cpu/linear.h"

#include <algorithm>
#include <numeric>

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

/// Rows of each thread, at least, from which on they are shared out where weights are unpacked, though each thread then unpacks
/// all of them; and the tasks that its share of a product is.
constexpr int64_t kLeastOwnRows = 192;
constexpr int64_t kRowTasks = 8;

/// Cuts `count` into the fewest parts of at most about `most`: the size of one part, a multiple of `unit`.
constexpr int64_t even_share(int64_t count, int64_t most, int64_t unit) {
  return ceil_div(ceil_div(count, ceil_div(count, most)), unit) * unit;
}

/// Elements of a row of the rounded input: whole blocks.
constexpr int64_t rounded_elements(int64_t cols) { return ceil_div(cols, kBlockCols) * kBlockCols; }

size_t rounded_bytes(int64_t num_tokens, int64_t cols) {
  return round_up(static_cast<size_t>(num_tokens * rounded_elements(cols)) * sizeof(uint16_t));
}

bool any_of_form(const LinearKernels& kernels, std::span<const WeightFormat> formats, InputForm form) {
  return std::any_of(formats.begin(), formats.end(), [&](WeightFormat format) { return input_form(kernels, format) == form; });
}

bool has_spans(const LinearKernels& kernels, std::span<const WeightFormat> formats) {
  return kernels.span_rows > 0 && any_of_form(kernels, formats, InputForm::rounded);
}

size_t quantised_bytes(int64_t num_tokens, int64_t cols) {
  const size_t low = static_cast<size_t>(num_tokens * (cols / 32)) * sizeof(QuantBytes);
  const size_t outliers = static_cast<size_t>(outlier_places(num_tokens, cols)) * sizeof(Outlier);
  return round_up(static_cast<size_t>(num_tokens * (cols / 32)) * sizeof(QuantBlock) + std::max(low, outliers));
}

/// Fills the forms of x that `formats` need. `row_of(i)` makes row i and says where it is, on the thread that then prepares it.
template <class RowOf>
LinearInput prepare_rows(const LinearKernels& kernels, ThreadPool& pool, const Tensor& x, std::span<const WeightFormat> formats,
                         void* workspace, const RowOf& row_of) {
  const LinearInput input = place_input(kernels, x, formats, workspace);
  const int64_t num_rows = x.shape[0];
  const int64_t unit = unit_rows(kernels, formats), num_units = ceil_div(num_rows, unit);
  const auto prepare = [&](int64_t index, int) {
    const int64_t begin = index * unit, end = std::min(begin + unit, num_rows);
    for (int64_t row = begin; row < end; ++row) prepare_row(kernels, input, row_of(row), row, {begin, end});
  };
  if (num_rows * x.cols() <= kSerialElements) {
    for (int64_t index = 0; index < num_units; ++index) prepare(index, 0);
  } else {
    pool.run_near(num_units, prepare);
  }
  return input;
}

LinearInput prepare_input(const LinearKernels& kernels, ThreadPool& pool, const Tensor& x,
                          std::span<const WeightFormat> formats, void* workspace) {
  const bool as_it_is =
      !any_of_form(kernels, formats, InputForm::quantised) && !any_of_form(kernels, formats, InputForm::rounded);
  if (as_it_is) return {x};
  return prepare_rows(kernels, pool, x, formats, workspace, [&](int64_t row) { return x.row<const float>(row); });
}

/// Points `args` at the input rows that begin a tile, in the form that `format` is multiplied with.
void set_input(TileArgs& args, const LinearInput& input, WeightFormat format, int64_t row) {
  if (takes_quantised_input(format)) {
    args.x = input.quantised + row * (args.cols / 32);
    if (input.low) args.low = input.low + row * (args.cols / 32);
    if (input.outliers) args.outliers = input.outliers + outlier_places(row, args.cols);
  } else if (format == WeightFormat::bf16 && input.rounded) {
    args.x_stride = rounded_elements(args.cols);
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

/// Without an output where a gate sends the rows elsewhere.
SpanArgs span_args(const PackedPart& part, int64_t begin, int64_t end, int64_t part_column, RowRange rows,
                   const LinearOutput& out, const LinearInput& input) {
  const int64_t column = part_column + begin * kPanelRows;
  SpanArgs args{};
  args.panels = part.panels + static_cast<size_t>(begin) * part.panel_bytes;
  args.panel_bytes = part.panel_bytes;
  args.num_panels = end - begin;
  args.num_columns = std::min(end * kPanelRows, part.rows) - begin * kPanelRows;
  args.cols = input.x.cols();
  args.x = input.rounded + rows.begin * rounded_elements(args.cols);
  args.num_rows = rows.end - rows.begin;
  if (out.out.data) args.out = out.out.row<float>(rows.begin) + column;
  args.out_stride = out.out.row_stride;
  args.bias = out.bias ? out.bias + column : nullptr;
  return args;
}

}  // namespace

int64_t unit_rows(const LinearKernels& kernels, std::span<const WeightFormat> formats) {
  if (!has_spans(kernels, formats)) return kernels.tile_rows;
  const bool has_tiles = any_of_form(kernels, formats, InputForm::quantised);
  return has_tiles ? std::lcm<int64_t>(kernels.tile_rows, kernels.span_rows) : kernels.span_rows;
}

int64_t most_task_rows(const LinearKernels& kernels, std::span<const WeightFormat> formats, int64_t cols) {
  const bool spans = has_spans(kernels, formats);
  const size_t rows = spans ? kSpanBlockBytes / sizeof(uint16_t) : kRowBlockBytes / sizeof(float);
  const int64_t unit = unit_rows(kernels, formats), most = std::max(static_cast<int64_t>(rows) / cols, unit);
  return spans ? std::min(most, kMostSpanRows - unit) : most;
}

LinearKernels linear_kernels(Isa isa, InputPrecision precision) {
  require(precision != InputPrecision::bf16 || isa == Isa::amx, "activation_dtype bf16 needs isa amx, got ", isa_name(isa));
  const auto table = [isa, precision]() -> LinearKernels {
#if defined(__x86_64__)
    if (isa == Isa::amx) return linear_kernels_amx(precision == InputPrecision::bf16);
    if (isa == Isa::avx512) return linear_kernels_avx512();
    if (isa == Isa::avx2_vnni) return linear_kernels_avx2_vnni();
    if (isa == Isa::avx2) return linear_kernels_avx2();
#endif
    ensure(isa == Isa::portable, "this build has no kernels for ", isa_name(isa));
    return linear_kernels_portable();
  };
  LinearKernels kernels = table();
  kernels.isa = isa;
  kernels.precision = precision;
  return kernels;
}

InputPrecision parse_input_precision(std::string_view word, Isa isa) {
  if (word == "auto") return isa == Isa::amx ? InputPrecision::bf16 : InputPrecision::mixed;
  if (word == "int8") return InputPrecision::int8;
  if (word == "mixed") return InputPrecision::mixed;
  if (word == "bf16") return InputPrecision::bf16;
  require(word == "int16", "activation_dtype must be one of auto, int8, mixed, bf16, int16, got ", word);
  return InputPrecision::int16;
}

size_t linear_workspace(int64_t num_tokens, int64_t /*rows*/, int64_t cols, std::span<const WeightFormat> formats) {
  size_t bytes = 0;
  const auto is_bf16 = [](WeightFormat format) { return format == WeightFormat::bf16; };
  if (std::any_of(formats.begin(), formats.end(), takes_quantised_input)) bytes += quantised_bytes(num_tokens, cols);
  if (std::any_of(formats.begin(), formats.end(), is_bf16)) bytes += rounded_bytes(num_tokens, cols);
  return bytes;
}

LinearInput place_input(const LinearKernels& kernels, const Tensor& x, std::span<const WeightFormat> formats, void* workspace) {
  LinearInput input{x};
  std::byte* next = static_cast<std::byte*>(workspace);
  if (any_of_form(kernels, formats, InputForm::quantised)) {
    input.quantised = reinterpret_cast<QuantBlock*>(next);
    void* extras = input.quantised + x.shape[0] * (x.cols() / 32);
    if (kernels.precision == InputPrecision::int16) input.low = static_cast<QuantBytes*>(extras);
    if (kernels.precision == InputPrecision::mixed) input.outliers = static_cast<Outlier*>(extras);
    next += quantised_bytes(x.shape[0], x.cols());
  }
  if (any_of_form(kernels, formats, InputForm::rounded)) input.rounded = reinterpret_cast<uint16_t*>(next);
  return input;
}

void prepare_row(const LinearKernels& kernels, const LinearInput& input, const float* x, int64_t row, RowRange block) {
  const int64_t cols = input.x.cols();
  const auto tile_of = [&](int64_t tile_rows) {
    const int64_t begin = block.begin + (row - block.begin) / tile_rows * tile_rows;
    return RowRange{begin, std::min(begin + tile_rows, block.end)};
  };
  if (input.quantised) {
    const RowRange tile = tile_of(kernels.tile_rows);
    const int64_t first = tile.begin * (cols / 32) + (row - tile.begin);
    const QuantisedRow to{input.quantised + first, input.low ? input.low + first : nullptr,
                          input.outliers ? input.outliers + outlier_places(tile.begin, cols) : nullptr, tile.end - tile.begin,
                          static_cast<int32_t>(row - tile.begin)};
    if (to.outliers && row == tile.begin) to.outliers->col = 0;
    kernels.quantise_row(x, cols, to);
  }
  if (input.rounded && kernels.span_rows > 0) {
    const RowRange tile = tile_of(kernels.span_rows);
    uint16_t* first = input.rounded + tile.begin * rounded_elements(cols) + (row - tile.begin) * kBlockCols;
    kernels.round_row(x, cols, first, (tile.end - tile.begin) * kBlockCols);
  } else if (input.rounded) {
    kernels.round_row(x, cols, input.rounded + row * rounded_elements(cols), kBlockCols);
  }
}

void run_task(const LinearKernels& kernels, const LinearTask& task, const LinearOutput& out, const LinearInput& input,
              std::span<const PackedPart> parts) {
  const auto [row_begin, row_end] = task.rows;
  const int64_t num_tiles = ceil_div(row_end - row_begin, kernels.tile_rows);
  for (const PackedPart& part : parts) {
    const int64_t begin = std::max<int64_t>(task.panel_begin - part.panel_begin, 0);
    const int64_t end = std::min(task.panel_end - part.panel_begin, part.num_panels());
    if (const SpanKernel span = kernels.span[static_cast<int>(part.format)]) {
      if (begin < end) span(span_args(part, begin, end, part.row_begin - parts[0].row_begin, task.rows, out, input));
      continue;
    }
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

namespace {

/// What is shared out of a product: its rows and `num_units` units of `unit_panels` panels of its columns.
struct ProductWork {
  const LinearKernels& kernels;
  int64_t num_rows;
  const Weight& weight;
  int64_t num_units, unit_panels;

  RowRange rows(int64_t block, int64_t block_rows) const {
    return {block * block_rows, std::min((block + 1) * block_rows, num_rows)};
  }
};

/// Calls body(first unit, end unit, rows) for tasks that share out the units, blocks of rows by blocks of rows.
template <class Body>
void share_columns(ThreadPool& pool, const ProductWork& work, int64_t block_rows, const Body& body) {
  const int64_t num_units = work.num_units, num_blocks = ceil_div(work.num_rows, block_rows);
  const int64_t unit_bytes = static_cast<int64_t>(work.weight.bytes) / num_units;
  const int64_t unit_products = std::min(block_rows, work.num_rows) * work.unit_panels * kPanelRows * work.weight.cols;
  const int64_t least = std::min(ceil_div(kLeastBytes, unit_bytes), ceil_div(kLeastProducts, unit_products));
  const Shares shares(num_blocks * num_units, pool.num_threads(), least);
  pool.run(shares.count(), [&](int64_t i, int) {
    auto [unit, end] = shares[i];
    for (int64_t next; unit < end; unit = next) {
      const int64_t block = unit / num_units, first = unit % num_units;
      next = std::min(end, (block + 1) * num_units);
      body(first, first + next - unit, work.rows(block, block_rows));
    }
  });
}

/// The same where the blocks of rows are shared out, about as other operations share out rows, and a thread that has none left
/// takes pieces of another's.
template <class Body>
void share_rows(ThreadPool& pool, const ProductWork& work, int64_t block_rows, const Body& body) {
  const int64_t num_units = work.num_units, num_blocks = ceil_div(work.num_rows, block_rows);
  const int64_t pieces = std::min(num_units, ceil_div(kRowTasks * pool.num_threads(), num_blocks));
  pool.run_near(num_blocks * pieces, [&](int64_t task, int) {
    const int64_t piece = task % pieces;
    body(num_units * piece / pieces, num_units * (piece + 1) / pieces, work.rows(task / pieces, block_rows));
  });
}

template <class Body>
void share_product(ThreadPool& pool, const ProductWork& work, const Body& body) {
  const std::vector<WeightFormat>& formats = work.weight.part_formats;
  const int64_t most = most_task_rows(work.kernels, formats, work.weight.cols), unit = unit_rows(work.kernels, formats);
  const int64_t threads = pool.num_threads();
  if (threads == 1 || !has_spans(work.kernels, formats) || work.num_rows < kLeastOwnRows * threads) {
    return share_columns(pool, work, even_share(work.num_rows, most, unit), body);
  }
  const int64_t num_blocks = threads * ceil_div(work.num_rows, threads * most);
  share_rows(pool, work, ceil_div(ceil_div(work.num_rows, num_blocks), unit) * unit, body);
}

void multiply(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const LinearInput& input, const Weight& weight,
              const float* bias) {
  const PackedWeight& packed = PackedWeight::of(weight);
  const int64_t num_rows = input.x.shape[0];
  const int64_t unit_panels = num_rows >= kMinPairRows || has_spans(kernels, weight.part_formats) ? 2 : 1;
  const int64_t num_units = ceil_div(packed.num_panels, unit_panels);
  const ProductWork work{kernels, num_rows, weight, num_units, unit_panels};
  share_product(pool, work, [&](int64_t begin, int64_t end, RowRange rows) {
    const LinearTask task{begin * unit_panels, std::min(end * unit_panels, packed.num_panels), rows};
    run_task(kernels, task, {out, bias}, input, packed.parts);
  });
}

/// Multiplies the prepared input with gates and ups. The activations go to `rounded`.
void multiply_gated(const LinearKernels& kernels, ThreadPool& pool, uint16_t* rounded, const LinearInput& input,
                    const Weight& weight, const float* bias, const GateRows& how) {
  const std::vector<PackedPart>& parts = PackedWeight::of(weight).parts;
  const PackedPart& part = parts[0];
  const int64_t cols = weight.rows / 2, num_panels = cols / kPanelRows;
  SpanGate gate{};
  gate.how = how;
  gate.up_offset = static_cast<size_t>(num_panels) * part.panel_bytes;
  if (parts.size() == 2) gate.up_offset = static_cast<size_t>(parts[1].panels - part.panels);
  gate.rounded_cols = cols;
  const ProductWork work{kernels, input.x.shape[0], weight, num_panels, 2};
  share_product(pool, work, [&](int64_t begin, int64_t end, RowRange rows) {
    SpanGate own = gate;
    own.column = begin * kPanelRows;
    if (bias) own.up_bias = bias + cols + own.column;
    own.rounded = rounded + rows.begin * cols;
    SpanArgs args = span_args(part, begin, end, 0, rows, {{}, bias}, input);
    args.gate = &own;
    kernels.span[static_cast<int>(part.format)](args);
  });
}

}  // namespace

void linear(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x, const Weight& weight,
            const float* bias, void* workspace) {
  if (x.shape[0] == 0) return;
  multiply(kernels, pool, out, prepare_input(kernels, pool, x, weight.part_formats, workspace), weight, bias);
}

namespace {

/// Whether multiply_gated can multiply `weight`, gates over ups, with so many rows.
bool gates_in_product(const LinearKernels& kernels, int64_t num_rows, const Weight& weight) {
  if (num_rows < 2 || weight.rows % (2 * kPanelRows) != 0) return false;
  const std::vector<PackedPart>& parts = PackedWeight::of(weight).parts;
  const bool halves = parts.size() == 1 || (parts.size() == 2 && parts[0].rows == parts[1].rows);
  return halves && parts.front().format == parts.back().format && kernels.span[static_cast<int>(parts[0].format)];
}

/// Whether multiply_gated can hand its activations on to `down`.
bool rounds_between(const LinearKernels& kernels, const Weight& down) {
  const auto rounds = [&](WeightFormat format) { return kernels.span[static_cast<int>(format)] != nullptr; };
  return down.cols % kBlockCols == 0 && std::all_of(down.part_formats.begin(), down.part_formats.end(), rounds);
}

Tensor rows_of(const Tensor& x, RowRange rows) {
  return {x.row<float>(rows.begin), x.dtype, {rows.end - rows.begin, x.cols()}, x.row_stride};
}

/// gated_mlp in blocks of rows, whose steps find one another's results in the caches. The thread that prepares a
/// row of activations computes it first.
void gated_mlp_in_blocks(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x,
                         const GatedMlp& mlp, const GateRows& how) {
  const int64_t cols = mlp.down.cols;
  if (x.rows() == 0) return;
  const int64_t block_rows = even_share(x.rows(), kMlpRows, unit_rows(kernels, mlp.down.part_formats));
  ensure(block_rows <= kMlpRows, "blocks of ", block_rows, " rows of a gated MLP have no room in ", kMlpRows);
  for (int64_t begin = 0; begin < x.rows(); begin += block_rows) {
    const RowRange rows{begin, std::min(begin + block_rows, x.rows())}, block{0, rows.end - begin};
    const Tensor gate_up = rows_of(mlp.gate_up, block), gated = rows_of(mlp.gated, block);
    linear(kernels, pool, gate_up, rows_of(x, rows), mlp.up, mlp.up_bias, mlp.workspace);
    const LinearInput input =
        prepare_rows(kernels, pool, gated, mlp.down.part_formats, mlp.workspace, [&](int64_t row) -> const float* {
          const float* gate = gate_up.row<const float>(row);
          how.activate(gated.row<float>(row), gate, gate + cols, cols, how.activation);
          return gated.row<const float>(row);
        });
    multiply(kernels, pool, rows_of(out, rows), input, mlp.down, mlp.down_bias);
  }
}

}  // namespace

void gated_mlp(const LinearKernels& kernels, ThreadPool& pool, const Tensor& out, const Tensor& x, const GatedMlp& mlp,
               const GateRows& how) {
  if (!gates_in_product(kernels, x.rows(), mlp.up) || !rounds_between(kernels, mlp.down)) {
    return gated_mlp_in_blocks(kernels, pool, out, x, mlp, how);
  }
  const LinearInput input = prepare_input(kernels, pool, x, mlp.up.part_formats, mlp.workspace);
  LinearInput between{mlp.gated};
  between.rounded = mlp.gated.as<uint16_t>();
  multiply_gated(kernels, pool, between.rounded, input, mlp.up, mlp.up_bias, how);
  multiply(kernels, pool, out, between, mlp.down, mlp.down_bias);
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

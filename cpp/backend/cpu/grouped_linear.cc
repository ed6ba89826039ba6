// Cuts each expert's rows into blocks that stay in the L2 cache and each block's panels into tasks of about equal cost: one
// token's k experts keep all threads busy, and many rows of one expert share each panel that is read. Bound by the bytes of the
// chosen experts when few tokens run, by multiply-adds when many do.
#include "backend/cpu/grouped_linear.h"

#include <algorithm>

#include "backend/cpu/shares.h"

namespace pagoda::cpu {
namespace {

/// A task reads at most so many weight bytes and has about so many multiply-adds; within these bounds each thread gets so many.
constexpr size_t kTaskBytes = size_t{256} << 10;
constexpr int64_t kTaskProducts = int64_t{4} << 20;
constexpr int64_t kMinTasksPerThread = 4;
constexpr int64_t kMaxTasksPerThread = 16;
/// Reading a panel from memory costs about as much as multiplying it with so many rows.
constexpr int64_t kReadCost = 4;

/// A block of one expert's places, and its share of the tiles to prepare and of the tasks to run.
struct Block {
  int32_t expert;
  int32_t begin, end;  ///< places
  int32_t task_panels;
  int64_t first_tile, first_task;

  int64_t cost() const { return end - begin + kReadCost; }  // of one panel
};

struct Plan {
  std::span<Block> blocks;
  int64_t num_tiles = 0, num_tasks = 0;
};

size_t plan_bytes(int64_t num_pairs) { return round_up(static_cast<size_t>(num_pairs) * sizeof(Block)); }

/// Input of weights in plain floats is multiplied where it lies, so it must lie by place.
bool needs_gathered_floats(std::span<const WeightFormat> formats, ExpertInput input) {
  return input == ExpertInput::by_token && !std::all_of(formats.begin(), formats.end(), takes_quantised_input);
}

size_t gathered_bytes(int64_t num_pairs, int64_t cols) {
  return round_up(static_cast<size_t>(num_pairs * cols) * sizeof(float));
}

/// The parts that expert e is packed from.
std::span<const PackedPart> parts_of(const PackedWeight& weight, int num_groups, int64_t e) {
  const size_t num_parts = weight.parts.size() / static_cast<size_t>(num_groups);
  return {weight.parts.data() + static_cast<size_t>(e) * num_parts, num_parts};
}

RowRange panel_range(std::span<const PackedPart> parts) {
  return {parts.front().panel_begin, parts.back().panel_begin + parts.back().num_panels()};
}

/// Fills `blocks` with those of each expert in turn and returns them, the tiles numbered.
Plan plan_blocks(const LinearKernels& kernels, const Routing& routing, const Weight& experts, Block* blocks) {
  const int64_t tile_rows = unit_rows(kernels, experts.part_formats);
  const int64_t most_rows = most_task_rows(kernels, experts.part_formats, experts.cols);
  Plan plan;
  size_t count = 0;
  for (int32_t e = 0; e < routing.num_experts; ++e) {
    const int32_t begin = routing.expert_start[e], end = routing.expert_start[e + 1];
    if (begin == end) continue;
    const int64_t num_blocks = ceil_div(end - begin, most_rows);
    const auto block_rows = static_cast<int32_t>(ceil_div(ceil_div(end - begin, num_blocks), tile_rows) * tile_rows);
    for (int32_t row = begin; row < end; row += block_rows) {
      const int32_t row_end = std::min(row + block_rows, end);
      blocks[count++] = {e, row, row_end, 0, plan.num_tiles, 0};
      plan.num_tiles += ceil_div(row_end - row, tile_rows);
    }
  }
  plan.blocks = {blocks, count};
  return plan;
}

/// Chooses the panels per task so that all tasks cost about the same, and numbers the tasks.
void plan_tasks(Plan& plan, const GroupedProduct& product, int num_threads) {
  const PackedWeight& packed = PackedWeight::of(product.experts);
  const int num_groups = product.experts.num_groups;
  const int64_t products = product.out.shape[0] * product.out.cols() * product.experts.cols;
  const int64_t num_tasks =
      std::clamp(products / kTaskProducts, kMinTasksPerThread * num_threads, kMaxTasksPerThread * num_threads);
  const auto most_panels = static_cast<int64_t>(kTaskBytes * static_cast<size_t>(packed.num_panels) / product.experts.bytes);
  const auto num_panels = [&](const Block& block) {
    const RowRange panels = panel_range(parts_of(packed, num_groups, block.expert));
    return panels.end - panels.begin;
  };
  int64_t cost = 0;
  for (const Block& block : plan.blocks) cost += num_panels(block) * block.cost();
  for (Block& block : plan.blocks) {
    const int64_t fair = cost / num_tasks / block.cost();
    block.task_panels = static_cast<int32_t>(std::max<int64_t>(std::min(fair, most_panels), 1));
    block.first_task = plan.num_tasks;
    plan.num_tasks += ceil_div(num_panels(block), block.task_panels);
  }
}

/// The block that tile or task `index` belongs to.
const Block& block_of(const Plan& plan, int64_t Block::* first, int64_t index) {
  const auto after = std::upper_bound(plan.blocks.begin(), plan.blocks.end(), index,
                                      [first](int64_t value, const Block& block) { return value < block.*first; });
  return *(after - 1);
}

/// Fills the forms of the input that the parts need, by place. `gathered` is where the floats go, or null.
void prepare(const LinearKernels& kernels, ThreadPool& pool, const Plan& plan, const GroupedProduct& product,
             const LinearInput& input, float* gathered) {
  if (!input.quantised && !input.rounded && !gathered) return;
  const int64_t cols = input.x.cols(), tile_rows = unit_rows(kernels, product.experts.part_formats);
  const auto prepare_tile = [&](int64_t tile, int) {
    const Block& block = block_of(plan, &Block::first_tile, tile);
    const int64_t begin = block.begin + (tile - block.first_tile) * tile_rows;
    const int64_t end = std::min<int64_t>(begin + tile_rows, block.end);
    for (int64_t place = begin; place < end; ++place) {
      const bool by_token = product.input == ExpertInput::by_token;
      const int64_t row = by_token ? product.routing.pairs[place] / product.routing.top_k : place;
      const float* x = product.x.row<const float>(row);
      prepare_row(kernels, input, x, place, {begin, end});
      if (gathered) std::copy_n(x, cols, gathered + place * cols);
    }
  };
  if (product.routing.num_pairs() * cols <= kSerialElements) {
    for (int64_t tile = 0; tile < plan.num_tiles; ++tile) prepare_tile(tile, 0);
  } else {
    pool.run(plan.num_tiles, prepare_tile);
  }
}

}  // namespace

size_t grouped_linear_workspace(int64_t num_pairs, int64_t cols, std::span<const WeightFormat> formats, ExpertInput input) {
  const size_t floats = needs_gathered_floats(formats, input) ? gathered_bytes(num_pairs, cols) : 0;
  return plan_bytes(num_pairs) + floats + linear_workspace(num_pairs, 0, cols, formats);
}

void grouped_linear(const LinearKernels& kernels, ThreadPool& pool, const GroupedProduct& product, void* workspace) {
  const Weight& experts = product.experts;
  const int64_t num_pairs = product.routing.num_pairs(), cols = experts.cols;
  if (num_pairs == 0) return;
  Plan plan = plan_blocks(kernels, product.routing, experts, static_cast<Block*>(workspace));
  plan_tasks(plan, product, pool.num_threads());

  std::byte* next = static_cast<std::byte*>(workspace) + plan_bytes(num_pairs);
  Tensor x = product.x;
  float* gathered = nullptr;
  if (product.input == ExpertInput::by_token) {
    if (needs_gathered_floats(experts.part_formats, product.input)) {
      gathered = reinterpret_cast<float*>(next);
      next += gathered_bytes(num_pairs, cols);
    }
    x = Tensor::dense(gathered, DType::f32, {num_pairs, cols});
  }
  const LinearInput input = place_input(kernels, x, experts.part_formats, next);
  prepare(kernels, pool, plan, product, input, gathered);

  const PackedWeight& packed = PackedWeight::of(experts);
  pool.run(plan.num_tasks, [&](int64_t index, int) {
    const Block& block = block_of(plan, &Block::first_task, index);
    const std::span<const PackedPart> parts = parts_of(packed, experts.num_groups, block.expert);
    const RowRange panels = panel_range(parts);
    const int64_t panel = panels.begin + (index - block.first_task) * block.task_panels;
    const LinearTask task{panel, std::min(panel + block.task_panels, panels.end), {block.begin, block.end}};
    const float* bias = product.bias ? product.bias + block.expert * product.out.cols() : nullptr;
    run_task(kernels, task, {product.out, bias}, input, parts);
  });
}

}  // namespace pagoda::cpu

// weights + workspace + KV blocks <= budget.
#include "model/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

std::string gib(double bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(bytes < (1 << 28) ? 4 : 2) << bytes / (1 << 30) << " GiB";
  return std::move(text).str();
}
std::string gib(size_t bytes) { return gib(static_cast<double>(bytes)); }

int64_t blocks_for(int64_t tokens, int block_size) { return (tokens + block_size - 1) / block_size; }

size_t plan_budget(const MemoryRequest& request, const DeviceInfo& device, bool is_cpu) {
  if (request.utilization) return static_cast<size_t>(*request.utilization * static_cast<double>(device.total_bytes));
  if (request.kv_cache_memory || request.num_kv_blocks) return device.available_bytes;
  if (is_cpu) return static_cast<size_t>(kCpuShareOfFreeMemory * static_cast<double>(device.available_bytes));
  return static_cast<size_t>(kGpuUtilization * static_cast<double>(device.total_bytes));
}

/// Bytes of the device that may be used, but for those that the unit of allocation adds and, on the CPU, the swap space.
size_t limit_of(const MemoryPlan& plan, const MemoryRequest& request) {
  const size_t limit = std::min(plan.budget, plan.available);
  const size_t taken = plan.kv_padding + (request.host_available ? 0 : request.swap_bytes);
  return limit > taken ? limit - taken : 0;
}

/// Blocks that the request asks for, or that the budget leaves.
int64_t plan_blocks(const MemoryPlan& plan, const MemoryRequest& request, bool is_cpu) {
  if (request.num_kv_blocks) return *request.num_kv_blocks;
  if (request.kv_cache_memory) return *request.kv_cache_memory / static_cast<int64_t>(plan.kv_block);
  const size_t swap = request.host_available ? 0 : request.swap_bytes;
  const size_t taken = plan.fixed() + plan.kv_padding + swap;
  size_t room = plan.budget > taken ? plan.budget - taken : 0;
  if (is_cpu && !request.utilization) room = std::min(room, kCpuDefaultKvBytes);
  const int64_t useful = request.max_num_seqs * blocks_for(plan.max_model_len, plan.block_size);
  return std::min(useful, static_cast<int64_t>(room / plan.kv_block));
}

/// What to change when not even one block has room beside `fixed` bytes, with a value where one is enough.
std::string remedy(const MemoryPlan& plan, const MemoryRequest& request, size_t needed, size_t limit) {
  const size_t swap = request.host_available ? 0 : request.swap_bytes;
  if (needed <= limit + swap) return str("swap_space up to ", gib(limit + swap - needed), " would fit");
  std::string fewer = str("a smaller max_num_batched_tokens (", request.max_num_batched_tokens, ") or max_num_seqs (",
                          request.max_num_seqs, ") needs less");
  const double share =
      std::ceil(100.0 * static_cast<double>(needed + swap + plan.kv_padding) / static_cast<double>(plan.total)) / 100;
  if (request.utilization && share <= 1 && needed + swap + plan.kv_padding <= plan.available) {
    std::ostringstream text;
    text << "memory_utilization from " << std::fixed << std::setprecision(2) << share << " on would fit; " << fewer;
    return std::move(text).str();
  }
  return fewer;
}

void check_room(const MemoryPlan& plan, const MemoryRequest& request) {
  const size_t limit = limit_of(plan, request);
  const size_t fixed = plan.fixed();
  require(!request.host_available || request.swap_bytes <= request.host_available, "swap_space asks for ",
          gib(request.swap_bytes), " of the host's memory, but ", gib(request.host_available), " are free");
  require(request.swap_bytes == 0 || plan.num_swap_blocks > 0, "swap_space must hold at least one block of ", plan.kv_block,
          " bytes, got ", request.swap_bytes);
  const std::string swap = request.swap_bytes && !request.host_available
                               ? str("; besides the swap space of ", gib(request.swap_bytes))
                               : std::string();
  require(fixed + plan.kv_block <= limit, "not enough memory: weights ", gib(plan.weights), " and workspace ",
          gib(plan.workspace + plan.indices + plan.scratch), " and one KV block ", gib(plan.kv_block), " need ",
          gib(fixed + plan.kv_block), ", but ", gib(limit), " may be used (", gib(plan.available), " of ", gib(plan.total),
          " are free", swap, "); ", remedy(plan, request, fixed + plan.kv_block, limit));
  require(plan.num_blocks >= 1, "kv_cache_memory must hold at least one block of ", plan.kv_block, " bytes, got ",
          request.kv_cache_memory.value_or(0));
  // The product first in units of blocks: num_kv_blocks can be any integer.
  const auto fitting = static_cast<int64_t>((limit - fixed) / plan.kv_block);
  const std::string would_fit = request.kv_cache_memory
                                    ? str("kv_cache_memory up to ", fitting * static_cast<int64_t>(plan.kv_block), " bytes")
                                    : str("num_kv_blocks up to ", fitting);
  require(plan.num_blocks <= fitting, "not enough memory: ", plan.num_blocks, " KV blocks of ", plan.kv_block, " bytes need ",
          gib(static_cast<double>(plan.num_blocks) * static_cast<double>(plan.kv_block)), ", ", gib(limit - fixed),
          " are left for them (", gib(plan.available), " of ", gib(plan.total), " are free", swap, "); ", would_fit,
          " would fit");
}

/// Whether everything fits and one request of the longest context does.
bool holds(const MemoryPlan& plan, const MemoryRequest& request) {
  const size_t limit = limit_of(plan, request);
  // Division instead of a product: num_kv_blocks can be any integer.
  return plan.fixed() < limit && plan.num_blocks <= static_cast<int64_t>((limit - plan.fixed()) / plan.kv_block) &&
         blocks_for(plan.max_model_len, plan.block_size) <= plan.num_blocks;
}

/// The plan for a context of `max_model_len` tokens, whether it fits or not.
MemoryPlan plan_length(const Checkpoint& checkpoint, const BackendTraits& traits, const DeviceInfo& device,
                       const MemoryRequest& request, int64_t max_model_len) {
  const bool is_cpu = device.num_threads > 0;
  const std::unique_ptr<Decoder> model = plan_decoder(checkpoint, traits, max_model_len);
  MemoryPlan plan;
  plan.total = device.total_bytes;
  plan.available = device.available_bytes;
  plan.budget = plan_budget(request, device, is_cpu);
  plan.block_size = request.block_size;
  plan.max_model_len = max_model_len;
  plan.weights = model->weights().bytes;
  StepNeeds needs = measure_step(*model, traits, request, max_model_len);
  plan.workspace = allocated_bytes(traits, needs.arena_bytes);
  plan.linears = std::move(needs.linears);
  if (request.index_bytes) plan.indices = allocated_bytes(traits, request.index_bytes(max_model_len));
  plan.scratch = traits.own_scratch(device.num_threads, checkpoint.config.vocab_size);
  plan.kv_block = KvCache(nullptr, model->kv_shape(), request.kv_dtype, request.block_size, 1).block_bytes();
  const auto num_layers = static_cast<size_t>(model->kv_shape().num_layers);
  plan.kv_padding = num_layers * (traits.allocation_unit - 1);  // at most
  plan.num_blocks = plan_blocks(plan, request, is_cpu);
  if (traits.allocation_unit > 1) {
    const size_t layer_bytes = plan.kv_block / num_layers * static_cast<size_t>(plan.num_blocks);
    plan.kv_padding = num_layers * (allocated_bytes(traits, layer_bytes) - layer_bytes);
  }
  const int64_t useful = request.max_num_seqs * blocks_for(max_model_len, request.block_size);
  plan.num_swap_blocks = std::min(useful, static_cast<int64_t>(request.swap_bytes / plan.kv_block));
  plan.max_concurrency = static_cast<double>(plan.num_blocks) / static_cast<double>(blocks_for(max_model_len, plan.block_size));
  return plan;
}

}  // namespace

StepNeeds measure_step(Model& model, const BackendTraits& traits, const MemoryRequest& request, int64_t max_model_len) {
  Arena arena;
  Ops ops(traits, nullptr, arena);
  KvCache kv(nullptr, model.kv_shape(), request.kv_dtype, request.block_size, 1);
  Batch batch;
  batch.num_tokens = static_cast<int>(request.max_num_batched_tokens);
  batch.num_seqs = static_cast<int>(std::min(request.max_num_seqs, request.max_num_batched_tokens));
  batch.num_logit_rows = static_cast<int>(request.max_logit_rows);
  batch.max_blocks = static_cast<int>(blocks_for(max_model_len, request.block_size));
  batch.max_query_len = static_cast<int>(std::min(request.max_num_batched_tokens, max_model_len));
  batch.max_kv_len = static_cast<int>(max_model_len);
  batch.block_size = request.block_size;
  {
    const Arena::Scope step(arena);
    model.forward(batch, kv, ops);
  }
  {
    const Arena::Scope step(arena);
    // Where the last layer goes on with the rows that need logits, which takes copies: as many as it ever does that with.
    batch.num_logit_rows = std::min(batch.num_logit_rows, batch.num_tokens / 2);
    model.forward(batch, kv, ops);
  }
  Ops embedding_ops(traits, nullptr, arena);
  Tensor hidden;
  model.forward(batch, kv, embedding_ops, &hidden);
  return {arena.high_water(), ops.linear_uses()};
}

MemoryPlan plan_memory(const Checkpoint& checkpoint, const BackendTraits& traits, const DeviceInfo& device,
                       const MemoryRequest& request) {
  const int64_t trained = checkpoint.config.max_context;
  const int64_t wanted = request.max_model_len.value_or(trained);
  require(wanted <= trained, "max_model_len must be <= ", trained, ", the model's context, got ", wanted);
  const auto plan_for = [&](int64_t max_model_len) { return plan_length(checkpoint, traits, device, request, max_model_len); };
  MemoryPlan plan = plan_for(wanted);
  if (!request.max_model_len && !holds(plan, request)) {
    int64_t fitting = 0, too_many = blocks_for(trained, request.block_size);
    if (request.num_kv_blocks || request.kv_cache_memory) {
      if (plan.num_blocks < too_many) fitting = plan.num_blocks;  // the caller's choice is kept, the context follows it
    } else {
      // All that a context needs grows with it, so the longest that fits is found by bisection, in whole blocks.
      while (too_many - fitting > 1) {
        const int64_t middle = fitting + (too_many - fitting) / 2;
        (holds(plan_for(middle * request.block_size), request) ? fitting : too_many) = middle;
      }
    }
    if (fitting > 0) plan = plan_for(fitting * request.block_size);
  }
  check_room(plan, request);
  require(blocks_for(plan.max_model_len, plan.block_size) <= plan.num_blocks, "max_model_len ", plan.max_model_len, " needs ",
          blocks_for(plan.max_model_len, plan.block_size), " KV blocks (",
          gib(plan.kv_block * static_cast<size_t>(blocks_for(plan.max_model_len, plan.block_size))), "), but only ",
          plan.num_blocks, " fit; max_model_len up to ", plan.num_blocks * plan.block_size, " would fit");
  return plan;
}

}  // namespace pagoda

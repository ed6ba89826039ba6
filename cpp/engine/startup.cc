// Start-up in order: open the checkpoint, plan all memory, make the backend, pack the weights, start the loop.
#include "engine/startup.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

/// Without a size a GPU gets 4 GiB of the host or a quarter of what is free there, and so does a CPU that is told to swap.
size_t swap_bytes(const EngineOptions& options, bool is_cpu, size_t host_available) {
  constexpr double kGib = 1 << 30;
  if (options.preemption_mode == "recompute") return 0;
  if (options.swap_space) return static_cast<size_t>(*options.swap_space * kGib);
  return is_cpu && options.preemption_mode != "swap" ? 0 : std::min(size_t{4} << 30, host_available / 4);
}

MemoryPlan plan(const Checkpoint& checkpoint, const EngineOptions& options, const DeviceChoice& choice,
                const DeviceInfo& device) {
  // The plan decides the number of blocks later; enough for one longest request is what bounds a block table.
  const auto limits_for = [&](int64_t max_model_len) {
    const int64_t num_blocks = (max_model_len + options.block_size - 1) / options.block_size;
    return make_limits(options, checkpoint.config.vocab_size, max_model_len, num_blocks);
  };
  MemoryRequest request;
  request.utilization = options.memory_utilization;
  request.kv_cache_memory = options.kv_cache_memory;
  request.num_kv_blocks = options.num_kv_blocks;
  request.max_model_len = options.max_model_len;
  const size_t host_available = cpu_device_info({}).available_bytes;
  if (!choice.is_cpu()) request.host_available = host_available;
  request.swap_bytes = swap_bytes(options, choice.is_cpu(), host_available);
  request.kv_dtype = choice.kv_dtype(options.kv_cache_dtype);
  request.block_size = static_cast<int>(options.block_size);
  request.max_num_seqs = options.max_num_seqs;
  request.max_num_batched_tokens = options.max_num_batched_tokens;
  request.max_logit_rows = limits_for(1).max_logit_rows();
  request.index_bytes = [&](int64_t max_model_len) { return limits_for(max_model_len).batch_bytes(); };
  return plan_memory(checkpoint, choice.traits(), device, request);
}

}  // namespace

MemoryPlan plan_engine(const std::string& path, const EngineOptions& options) {
  options.validate();
  const DeviceChoice choice(options);
  const Checkpoint checkpoint = open_checkpoint(path, options.weight_format);
  return plan(checkpoint, options, choice, choice.info());
}

StartedEngine start_engine(const std::string& path, const EngineOptions& options, const EosTokens& eos_tokens,
                           const LoadProgress& progress, const StartFolders& folders) {
  options.validate();
  return start_engine(open_checkpoint(path, options.weight_format), options, eos_tokens, progress, folders);
}

StartedEngine start_engine(Checkpoint checkpoint, const EngineOptions& options, const EosTokens& eos_tokens,
                           const LoadProgress& progress, const StartFolders& folders) {
  options.validate();
  const DeviceChoice choice(options, folders);
  std::unique_ptr<Backend> backend = choice.make_backend();
  StartedEngine started;
  started.device = backend->device();
  started.plan = plan(checkpoint, options, choice, started.device);
  backend->reserve(started.plan.weights);
  std::unique_ptr<Decoder> model = load_decoder(checkpoint, *backend, started.plan.max_model_len, progress);
  ensure(model->weights().bytes == started.plan.weights, "the weights take ", model->weights().bytes, " bytes, planned were ",
         started.plan.weights);
  backend->tune(started.plan.linears);
  if (eos_tokens) {
    for (int32_t token : eos_tokens()) checkpoint.config.add_eos_token("the tokenizer's end-of-sequence token", token);
  }
  started.config = checkpoint.config;
  EngineParts parts;
  parts.backend = std::move(backend);
  parts.model = std::move(model);
  parts.eos_tokens = checkpoint.config.eos_tokens;
  parts.max_model_len = started.plan.max_model_len;
  parts.num_blocks = started.plan.num_blocks;
  parts.num_swap_blocks = started.plan.num_swap_blocks;
  parts.kv_dtype = choice.kv_dtype(options.kv_cache_dtype);
  parts.workspace_bytes = started.plan.workspace;
  const Backend& used = *parts.backend;
  started.engine = std::make_unique<Engine>(options, std::move(parts));
  const size_t planned = started.plan.needed() + (choice.is_cpu() ? started.plan.swap_space() : 0);
  ensure(used.num_allocated_bytes() == planned, "the engine took ", used.num_allocated_bytes(), " bytes, planned were ",
         planned);
  return started;
}

}  // namespace pagoda

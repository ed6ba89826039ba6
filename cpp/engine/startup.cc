// Start-up in order: open the checkpoint, plan all memory, make the backend, pack the weights, start the loop.
#include "engine/startup.h"

#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

CpuOptions cpu_options(const EngineOptions& options) { return {static_cast<int>(options.num_threads), options.isa}; }

/// "auto" is the CPU unless this build has CUDA kernels; asking for cuda without them is make_cuda_backend's error.
bool wants_cpu(const EngineOptions& options) { return options.device == "cpu" || (options.device == "auto" && !cuda_built()); }

DType kv_dtype(const EngineOptions& options) { return options.kv_cache_dtype == "f32" ? DType::f32 : DType::bf16; }

MemoryPlan plan(const Checkpoint& checkpoint, const EngineOptions& options, const BackendTraits& traits,
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
  request.kv_dtype = kv_dtype(options);
  request.block_size = static_cast<int>(options.block_size);
  request.max_num_seqs = options.max_num_seqs;
  request.max_num_batched_tokens = options.max_num_batched_tokens;
  request.max_logit_rows = limits_for(1).max_logit_rows();
  request.index_bytes = [&](int64_t max_model_len) { return limits_for(max_model_len).batch_bytes(); };
  return plan_memory(checkpoint, traits, device, request);
}

}  // namespace

MemoryPlan plan_engine(const std::string& path, const EngineOptions& options) {
  options.validate();
  const Checkpoint checkpoint = open_checkpoint(path, options.weight_format);
  if (wants_cpu(options)) return plan(checkpoint, options, cpu_traits(), cpu_device_info(cpu_options(options)));
  const std::unique_ptr<Backend> backend = make_cuda_backend(0);
  return plan(checkpoint, options, backend->traits(), backend->device());
}

StartedEngine start_engine(const std::string& path, const EngineOptions& options, const std::vector<int32_t>& eos_tokens,
                           const LoadProgress& progress) {
  options.validate();
  Checkpoint checkpoint = open_checkpoint(path, options.weight_format);
  for (int32_t token : eos_tokens) checkpoint.config.add_eos_token("the tokenizer's end-of-sequence token", token);
  std::unique_ptr<Backend> backend = wants_cpu(options) ? make_cpu_backend(cpu_options(options)) : make_cuda_backend(0);
  StartedEngine started;
  started.config = checkpoint.config;
  started.device = backend->device();
  started.plan = plan(checkpoint, options, backend->traits(), backend->device());
  std::unique_ptr<Decoder> model = load_decoder(checkpoint, *backend, started.plan.max_model_len, progress);
  ensure(model->weights().bytes == started.plan.weights, "the weights take ", model->weights().bytes, " bytes, planned were ",
         started.plan.weights);
  EngineParts parts;
  parts.backend = std::move(backend);
  parts.model = std::move(model);
  parts.eos_tokens = checkpoint.config.eos_tokens;
  parts.max_model_len = started.plan.max_model_len;
  parts.num_blocks = started.plan.num_blocks;
  parts.kv_dtype = kv_dtype(options);
  parts.workspace_bytes = started.plan.workspace;
  started.engine = std::make_unique<Engine>(options, std::move(parts));
  return started;
}

}  // namespace pagoda

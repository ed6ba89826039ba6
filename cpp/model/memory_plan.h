// All memory of an engine, computed from headers and options before a weight is read. A pure function: `enginectl plan` prints
// it, the engine allocates exactly it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "model/loader.h"

namespace pagoda {

/// What the caller wants of the memory. At most one of kv_cache_memory and num_kv_blocks is set.
struct MemoryRequest {
  std::optional<double> utilization;       ///< share of the device's memory, (0, 1]
  std::optional<int64_t> kv_cache_memory;  ///< bytes
  std::optional<int64_t> num_kv_blocks;
  std::optional<int64_t> max_model_len;  ///< tokens
  size_t swap_bytes = 0;                 ///< most bytes of the host for blocks that are swapped out
  size_t host_available = 0;             ///< what is free of the host's memory, if the device has memory of its own; else 0
  DType kv_dtype = DType::bf16;
  int block_size = 16;
  int64_t max_num_seqs = 1;
  int64_t max_num_batched_tokens = 1;
  int64_t max_logit_rows = 1;
  std::function<size_t(int64_t max_model_len)> index_bytes;  ///< of a step's index arrays; empty = none
};

/// Sizes in bytes unless said otherwise.
struct MemoryPlan {
  size_t total = 0;                ///< memory of the device
  size_t available = 0;            ///< free on it now
  size_t budget = 0;               ///< what the engine may use
  size_t weights = 0;              ///< packed matrices, vectors and the rotary table
  size_t workspace = 0;            ///< activations and scratch of the largest step
  size_t indices = 0;              ///< index arrays of the largest step
  size_t scratch = 0;              ///< what the backend keeps for itself
  std::vector<LinearUse> linears;  ///< what Backend::tune takes
  size_t kv_block = 0;             ///< one block over all layers
  int64_t num_blocks = 0;
  size_t kv_padding = 0;        ///< what the device's unit of allocation adds to the blocks
  int64_t num_swap_blocks = 0;  ///< on the host
  int block_size = 0;           ///< tokens
  int64_t max_model_len = 0;    ///< tokens
  double max_concurrency = 0;   ///< requests of max_model_len tokens that fit at once

  size_t fixed() const { return weights + workspace + indices + scratch; }
  size_t kv_cache() const { return kv_block * static_cast<size_t>(num_blocks) + kv_padding; }
  size_t swap_space() const { return kv_block * static_cast<size_t>(num_swap_blocks); }
  /// Of the device; on the CPU the swap space comes on top.
  size_t needed() const { return fixed() + kv_cache(); }
};

/// On the CPU, where neither a share nor a size is given: at most this share of the free memory, and this much for the KV
/// cache.
constexpr double kCpuShareOfFreeMemory = 0.4;
constexpr size_t kCpuDefaultKvBytes = size_t{4} << 30;
constexpr double kGpuUtilization = 0.9;

/// Without max_model_len it is the longest context, up to the model's own, that fits beside everything it brings with it.
/// Throws InvalidArgument that says what is needed, what there is, and the value that would fit.
MemoryPlan plan_memory(const Checkpoint& checkpoint, const BackendTraits& traits, const DeviceInfo& device,
                       const MemoryRequest& request);

/// What a step with the largest sizes of a request asks of the backend.
struct StepNeeds {
  size_t arena_bytes = 0;
  std::vector<LinearUse> linears;
};

/// Found by a dry run of the model.
StepNeeds measure_step(Model& model, const BackendTraits& traits, const MemoryRequest& request, int64_t max_model_len);

}  // namespace pagoda

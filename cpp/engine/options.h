// What can be chosen about an engine. One row per option in `fields()`: validation, Python, YAML, flags and `--help` are made
// from the rows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "core/fields.h"
#include "engine/scheduling_rules.h"
#include "engine/speculative_options.h"

namespace pagoda {

struct EngineOptions {
  std::string device = "auto";
  std::string isa = "auto";
  std::string weight_format = "auto";
  std::string activation_dtype = "auto";
  int64_t num_threads = 0;
  std::optional<int64_t> max_model_len;
  int64_t max_num_seqs = 256;
  int64_t max_num_batched_tokens = 2048;
  int64_t block_size = 16;
  std::optional<double> memory_utilization;
  std::optional<int64_t> kv_cache_memory;
  std::optional<int64_t> num_kv_blocks;
  std::string kv_cache_dtype = "auto";
  bool deterministic = false;
  bool prefix_cache = true;
  std::string scheduling_policy = "fcfs";
  std::string preemption_mode = "auto";
  std::optional<double> swap_space;
  double watermark = 0.01;
  std::optional<int64_t> long_prefill_token_threshold;
  int64_t max_num_queued_seqs = 1024;
  std::optional<int64_t> max_num_queued_tokens;
  int64_t num_traced_seqs = 1024;
  double structured_output_timeout_s = 2;
  std::optional<SpeculativeOptions> speculative;

  static constexpr auto fields();

  SchedulingRules scheduling_rules() const;
  /// N of a device "cuda:N", 0 for "cuda"; nothing for any other word.
  std::optional<int> cuda_index() const;

  /// Checks ranges, allowed words, block_size being a power of two, and that at most one of kv_cache_memory and num_kv_blocks
  /// is set. Throws InvalidArgument naming the option.
  void validate() const;
};

constexpr auto EngineOptions::fields() {
  using O = EngineOptions;
  return std::tuple{
      field("device", &O::device, "auto | cpu | cuda | cuda:N; auto = the first GPU, or the CPU if there is none"),
      field("isa", &O::isa, "CPU kernels: auto | amx | avx512 | avx2_vnni | avx2 | portable"),
      field("weight_format", &O::weight_format,
            "quantise matrices of plain floats on load: auto | q8_0 | q5_1 | q5_0 | q4_1 | q4_0 | int8 | int4 | f8_e4m3 | bf16 "
            "| f16 "
            "| f32; auto keeps what the file has; below 8 bits the embedding and the head get q8_0"),
      field("activation_dtype", &O::activation_dtype,
            "on the CPU, what the inputs of quantised weights are rounded to: auto | int8 | mixed | bf16 | int16 (15 bits of "
            "it); mixed = int8, but outliers among each 32 values are not rounded; bf16 rounds the weights too and needs AMX; "
            "auto = bf16 with AMX, else mixed, which is faster for a lone stream"),
      field("num_threads", &O::num_threads, Range::closed(0, 1024),
            "compute threads on the CPU; 0 = the usable physical cores"),
      field("max_model_len", &O::max_model_len, Range::at_least(1),
            "longest context (prompt + output) in tokens; unset = the model's own, or what the KV cache can hold if that "
            "is less"),
      field("max_num_seqs", &O::max_num_seqs, Range::closed(1, 65536), "most sequences in one step"),
      field("max_num_batched_tokens", &O::max_num_batched_tokens, Range::closed(1, 1 << 20),
            "most tokens in one step; longer prompts are computed in chunks"),
      field("block_size", &O::block_size, Range::closed(1, 256), "tokens in one KV-cache block, a power of two"),
      field("memory_utilization", &O::memory_utilization, Range::left_open(0, 1),
            "share of the device's memory for weights, workspace and KV cache; unset = 0.9 on a GPU; on the CPU 0.4 of the "
            "memory that is free, and at most 4 GiB of KV cache"),
      field("kv_cache_memory", &O::kv_cache_memory, Range::at_least(1),
            "bytes of the KV cache, instead of a share of the memory"),
      field("num_kv_blocks", &O::num_kv_blocks, Range::at_least(1), "blocks of the KV cache, instead of a share of the memory"),
      field("kv_cache_dtype", &O::kv_cache_dtype,
            "auto | bf16 | f16 | fp8 | int8 | f32; auto = bf16; f16 and fp8 on GPUs, int8 and f32 on the CPU"),
      field("deterministic", &O::deterministic,
            "on GPUs: bitwise the same tokens in any batch and after a preemption, at some cost of speed; the CPU always does "
            "so"),
      field("prefix_cache", &O::prefix_cache, "reuse the keys and values of equal prompt beginnings"),
      field("scheduling_policy", &O::scheduling_policy,
            "fcfs | priority | fair; fair = users take turns by the tokens they were served"),
      field("preemption_mode", &O::preemption_mode,
            "auto | swap | recompute: a sequence that loses its KV blocks is copied to the host or computed again; auto = what "
            "is measured to be faster"),
      field("swap_space", &O::swap_space, Range::closed(0, 65536),
            "GiB of host memory for the blocks of preempted sequences; 0 = off; unset = 4 on a GPU, on the CPU only "
            "with preemption_mode swap"),
      field("watermark", &O::watermark, Range::closed(0, 1),
            "share of the KV blocks that stays free when a sequence starts beside others"),
      field("long_prefill_token_threshold", &O::long_prefill_token_threshold, Range::at_least(1),
            "most tokens of one prompt in one step; unset = max_num_batched_tokens"),
      field("max_num_queued_seqs", &O::max_num_queued_seqs, Range::at_least(1),
            "most waiting sequences; more are refused with 429"),
      field("max_num_queued_tokens", &O::max_num_queued_tokens, Range::at_least(1),
            "most prompt tokens of waiting sequences; more are refused with 429; unset = any number"),
      field("num_traced_seqs", &O::num_traced_seqs, Range::closed(0, 65536),
            "latest sequences whose timelines are kept; 0 = none"),
      field("structured_output_timeout_s", &O::structured_output_timeout_s, Range::closed(0.001, 600),
            "longest wait of a step for a grammar's allowed tokens, in seconds; a sequence without them ends with an error"),
      field("speculative", &O::speculative,
            "try guessed tokens along with the newest one; the same tokens in fewer steps where texts repeat themselves; CPU "
            "only; unset = off"),
  };
}

}  // namespace pagoda

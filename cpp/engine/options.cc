// Validation of engine options, once, before anything is loaded.
#include "engine/options.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <initializer_list>
#include <string_view>

#include "core/check.h"
#include "model/loader.h"

namespace pagoda {
namespace {

void validate_word(const char* name, const std::string& value, std::initializer_list<std::string_view> allowed) {
  if (std::ranges::find(allowed, value) != allowed.end()) return;
  std::string list;
  for (std::string_view word : allowed) list.append(list.empty() ? "" : ", ").append(word);
  throw InvalidArgument(str(name, " must be one of ", list, ", got \"", value, "\""));
}

}  // namespace

std::optional<int> EngineOptions::cuda_index() const {
  constexpr std::string_view kNumbered = "cuda:";
  if (device == "cuda") return 0;
  if (!device.starts_with(kNumbered)) return std::nullopt;
  const char* begin = device.data() + kNumbered.size();
  const char* end = device.data() + device.size();
  int index = 0;
  const auto [stop, error] = std::from_chars(begin, end, index);
  if (error != std::errc{} || stop != end || index < 0) return std::nullopt;
  return index;
}

SchedulingRules EngineOptions::scheduling_rules() const {
  SchedulingRules rules;
  if (scheduling_policy == "priority") rules.policy = SchedulingPolicy::priority;
  if (scheduling_policy == "fair") rules.policy = SchedulingPolicy::fair;
  if (preemption_mode == "swap") rules.preemption = PreemptionMode::swap;
  if (preemption_mode == "recompute") rules.preemption = PreemptionMode::recompute;
  if (speculative) {
    rules.draft = {speculative->num_speculative_tokens, speculative->prompt_lookup_max, speculative->prompt_lookup_min};
  }
  return rules;
}

void EngineOptions::validate() const {
  validate_ranges(*this);
  require(device == "auto" || device == "cpu" || device == "cuda-emu" || cuda_index(),
          "device must be one of auto, cpu, cuda, cuda:N with N the number of a GPU, got \"", device, "\"");
  if (speculative) {
    try {
      speculative->validate();
    } catch (const InvalidArgument& refusal) {
      throw InvalidArgument(str("speculative.", refusal.what()));
    }
  }
  validate_word("isa", isa, {"auto", "amx", "avx512", "avx2_vnni", "avx2", "portable"});
  validate_word("activation_dtype", activation_dtype, {"auto", "int8", "mixed", "bf16", "int16"});
  validate_word("kv_cache_dtype", kv_cache_dtype, {"auto", "bf16", "f16", "fp8", "int8", "f32"});
  parse_weight_format(weight_format);
  validate_word("scheduling_policy", scheduling_policy, {"fcfs", "priority", "fair"});
  validate_word("preemption_mode", preemption_mode, {"auto", "swap", "recompute"});
  require(preemption_mode != "swap" || swap_space != 0.0, "preemption_mode swap needs a swap_space of more than 0 GiB");
  require(std::has_single_bit(static_cast<uint64_t>(block_size)), "block_size must be a power of two, got ", block_size);
  require(!kv_cache_memory || !num_kv_blocks,
          "kv_cache_memory and num_kv_blocks both set the size of the KV cache; give one of them");
}

}  // namespace pagoda

// The choices that options leave to the scheduler. Plain data.
#pragma once

#include <cstdint>

#include "engine/drafter.h"
#include "engine/preemption.h"

namespace pagoda {

/// Who runs before whom: first come, first served; lower SamplingParams::priority first; or tenants in turns (fair_turns.h).
enum class SchedulingPolicy : uint8_t { fcfs, priority, fair };

struct SchedulingRules {
  SchedulingPolicy policy = SchedulingPolicy::fcfs;
  PreemptionMode preemption = PreemptionMode::automatic;
  DraftRules draft = {};
};

}  // namespace pagoda

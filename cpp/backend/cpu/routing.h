// The CPU's router of a mixture of experts: which experts each token goes to, with which weights, and the order by expert in
// which their rows are multiplied. Called by CpuBackend.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace pagoda::cpu {

/// Fills token t's out.experts and out.weights from its E logits. Every instruction set gives the same bits. Any thread.
void choose_experts(const Routing& out, int64_t t, const float* logits, const RouteArgs& args);

/// Fills out.expert_start, out.pairs and out.places from out.experts.
void sort_pairs(const Routing& out);

/// 1 / (1 + e^-x), the same bits on every instruction set.
float sigmoid(float x);

}  // namespace pagoda::cpu

// From a model's path and the options to a running engine: the plan first, then backend, weights, engine. Called by the
// bindings.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine/device_choice.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "model/config.h"
#include "model/loader.h"
#include "model/memory_plan.h"

namespace pagoda {

/// The memory an engine with these options would take. Reads headers only and creates no backend. Throws InvalidArgument.
MemoryPlan plan_engine(const std::string& path, const EngineOptions& options);

struct StartedEngine {
  ModelConfig config;
  DeviceInfo device;
  MemoryPlan plan;
  std::unique_ptr<Engine> engine;
};

/// Gives the tokenizer's end-of-sequence tokens; called once, when the weights are loaded, so that the tokenizer can be read
/// meanwhile. What it throws ends the start.
using EosTokens = std::function<std::vector<int32_t>()>;

/// Loads the model and starts the engine. `eos_tokens` join those of the checkpoint; they and `progress` may be empty.
/// Throws InvalidArgument for a bad model or option, DeviceError when the device fails.
StartedEngine start_engine(const std::string& path, const EngineOptions& options, const EosTokens& eos_tokens,
                           const LoadProgress& progress, const StartFolders& folders = {});
/// The same with a checkpoint that is open already; options.weight_format is not read.
StartedEngine start_engine(Checkpoint checkpoint, const EngineOptions& options, const EosTokens& eos_tokens,
                           const LoadProgress& progress, const StartFolders& folders = {});

}  // namespace pagoda

// Turns a checkpoint's tensors into a decoder's weights. Called by the loader.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "backend/backend.h"
#include "io/weight_source.h"
#include "model/config.h"
#include "model/decoder_weights.h"
#include "model/hf_quantisation.h"

namespace pagoda {

/// What packing reports: matrices done, of how many.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

/// What weights are built from and how.
struct WeightPlan {
  const ModelConfig& config;
  const WeightSource& source;
  const HfQuantisation* quantisation = nullptr;  ///< null: stored plainly
  /// Matrices of plain floats are quantised to this on load: see open_checkpoint.
  std::optional<WeightFormat> weight_format;
  int64_t num_positions = 0;  ///< bounds the positions that the rotary tables hold
};

/// The weights described but not read: `bytes` and shapes are exact, pointers null. Throws InvalidArgument for a missing tensor
/// or a wrong shape, naming it, what was found and what was expected.
DecoderWeights plan_weights(const WeightPlan& plan, const BackendTraits& traits);

/// The weights packed into `backend`.
DecoderWeights pack_weights(const WeightPlan& plan, Backend& backend, const LoadProgress& progress);

}  // namespace pagoda

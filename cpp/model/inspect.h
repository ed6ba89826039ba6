// What a checkpoint holds and what the decoder would make of it, without reading a weight. For `enginectl models inspect`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "io/weight_source.h"
#include "model/config.h"

namespace pagoda {

/// A matrix as the decoder packs it.
struct MatrixListing {
  int layer = -1;    ///< -1: of no layer
  std::string name;  ///< "qkv", "out", "up", "down", "experts.up", "router", ...
  int64_t rows = 0;
  int64_t cols = 0;
  std::string formats;  ///< of its parts, each once: "q4_k, q6_k"
  size_t bytes = 0;     ///< packed
};

struct ModelListing {
  std::string architecture;  ///< as the checkpoint names it; empty if it does not
  std::string refusal;       ///< why the decoder cannot run it; empty if it can
  std::string quantisation;  ///< of a Hugging Face checkpoint: "awq, 4 bits, groups of 128"; empty for none
  std::vector<TensorListing> tensors;
  std::vector<std::string> warnings;

  // Only without a refusal.
  std::vector<std::pair<std::string, std::string>> facts;  ///< what the configuration says, by name, in order of reading
  std::vector<MatrixListing> matrices;
  int64_t num_parameters = 0;
  int64_t num_active_parameters = 0;  ///< that one token meets: less those of the experts not chosen
  size_t packed_bytes = 0;            ///< of all weights and rotary tables in the backend's memory, at the full context
  int64_t max_context = 0;
};

/// Lists the checkpoint at `path` (see open_checkpoint). A model that cannot be run gives a listing with a refusal; throws
/// InvalidArgument only when the files themselves cannot be read, or for a weight_format that is none.
ModelListing inspect_model(const std::string& path, const std::string& weight_format, const BackendTraits& traits);

/// What a configuration says, for people: ("hidden size", "576"), ("positions", "rotary, theta 100000, yarn x 4"), ...
std::vector<std::pair<std::string, std::string>> describe_config(const ModelConfig& config);

}  // namespace pagoda

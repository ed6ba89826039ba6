// From files to a decoder: opens a checkpoint, checks that every tensor is there with the right shape, plans its bytes without
// reading a weight, then packs the weights into a backend.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "io/weight_source.h"
#include "model/config.h"
#include "model/decoder.h"

namespace pagoda {

/// An opened checkpoint: headers read and checked, weights still on disk.
struct Checkpoint {
  ModelConfig config;
  std::unique_ptr<WeightSource> source;
  bool is_gguf = false;
};

/// `path` is a .gguf file or a directory with config.json and safetensors. Throws InvalidArgument naming file and field.
Checkpoint open_checkpoint(const std::string& path);

/// What packing reports: matrices done, of how many.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

/// The decoder with all weights described but none read: its `bytes` and shapes are exact, its pointers null.
/// Throws InvalidArgument for a missing tensor or a wrong shape, naming it, what was found and what was expected.
std::unique_ptr<Decoder> plan_decoder(const Checkpoint& checkpoint, const BackendTraits& traits, int64_t num_positions);

/// The decoder with its weights packed into `backend`. `num_positions` bounds the positions it can be asked for.
std::unique_ptr<Decoder> load_decoder(const Checkpoint& checkpoint, Backend& backend, int64_t num_positions,
                                      const LoadProgress& progress);

}  // namespace pagoda

// From files to a decoder: opens a checkpoint, checks that every tensor is there with the right shape, plans its bytes without
// reading a weight, then packs the weights into a backend.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "io/weight_source.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/hf_quantisation.h"
#include "model/weight_builder.h"

namespace pagoda {

/// An opened checkpoint: headers read and checked, weights still on disk.
struct Checkpoint {
  ModelConfig config;
  std::unique_ptr<WeightSource> source;
  std::unique_ptr<HfQuantisation> quantisation;  ///< null: weights are stored plainly, or in a GGUF file's own formats
  std::optional<WeightFormat> weight_format;     ///< what matrices of plain floats become on load
  bool is_gguf = false;
};

/// `path` is a .gguf file or a directory with config.json and safetensors. `weight_format` is "auto", which keeps what the file
/// has, or the name of a format that quantise_row can write: then all matrices of plain floats are quantised to it on load, but
/// for those whose columns it cannot hold, routers, and, below 8 bits, the embedding and the head, which get q8_0.
/// Throws InvalidArgument naming file and field, or for a weight_format of a checkpoint that is quantised already.
Checkpoint open_checkpoint(const std::string& path, const std::string& weight_format = "auto");

/// The same for a directory whose weights come from `weights`, with weight_format auto.
Checkpoint open_checkpoint(const std::string& directory, std::unique_ptr<WeightSource> weights);

/// The format that a weight_format of open_checkpoint means; nothing for "auto". Throws InvalidArgument listing those allowed.
std::optional<WeightFormat> parse_weight_format(const std::string& name);

/// The decoder with all weights described but none read: its `bytes` and shapes are exact, its pointers null. `num_positions`
/// bounds the positions it can be asked for. Throws InvalidArgument for a missing tensor or a wrong shape, naming it, what was
/// found and what was expected.
std::unique_ptr<Decoder> plan_decoder(const Checkpoint& checkpoint, const BackendTraits& traits, int64_t num_positions);

/// The decoder with its weights packed into `backend`.
std::unique_ptr<Decoder> load_decoder(const Checkpoint& checkpoint, Backend& backend, int64_t num_positions,
                                      const LoadProgress& progress);

}  // namespace pagoda

// Weights in safetensors files: one file, or shards with an index. Called by the model loader and by `enginectl inspect`.
#pragma once

#include <memory>
#include <string>

#include "io/mapped_file.h"
#include "io/weight_source.h"

namespace pagoda {

/// Opens a `.safetensors` file, a `.safetensors.index.json` file, or a directory that holds `model.safetensors` or
/// `model.safetensors.index.json`. All files are mapped and their headers checked; no weight is read. Throws InvalidArgument
/// naming the file and what is wrong with it; a directory with only pickle files (.bin .pt .pth .pkl .ckpt) is told how to
/// convert.
std::unique_ptr<WeightSource> open_safetensors(const std::string& path);

/// The same for one file that is open already.
std::unique_ptr<WeightSource> open_safetensors(MappedFile file);

}  // namespace pagoda

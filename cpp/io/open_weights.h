// A checkpoint's weights, whatever kind of file they lie in. Called by listings and scans, which need no model.
#pragma once

#include <memory>
#include <string>

#include "io/weight_source.h"

namespace pagoda {

/// Opens a directory of safetensors, or a GGUF file. Throws InvalidArgument as these do.
std::unique_ptr<WeightSource> open_weights(const std::string& path);

}  // namespace pagoda

// Reads the model's sizes from a GGUF file's metadata.
#pragma once

#include "io/gguf.h"
#include "model/config.h"

namespace pagoda {

/// Throws InvalidArgument naming the key for anything missing, unknown or out of range.
ModelConfig read_gguf_config(const GgufFile& file);

}  // namespace pagoda

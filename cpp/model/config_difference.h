// Whether two descriptions of a model mean the same to the decoder. Used by gguf_export.cc to see that a file says all of what
// it was written from.
#pragma once

#include <string>

#include "model/config.h"

namespace pagoda {

/// Empty if a decoder of `found` computes what one of `wanted` does; else the first difference, for people: "the sliding window
/// of layer 3 is 0 instead of 4096". Names, layouts and the order of end-of-sequence tokens do not count, windows beyond the
/// context are none, and numbers are compared as the floats that the engine computes with.
std::string config_difference(const ModelConfig& wanted, const ModelConfig& found);

}  // namespace pagoda

// Which layers have a sliding window and a rotation, in the ways that several families say it. Used by model/arch/*.cc.
#pragma once

#include "model/config.h"
#include "model/gguf_config.h"
#include "model/gguf_config_writer.h"

namespace pagoda::arch {

/// Gives every layer the window, but none to each `period`-th (the last of each `period`). Throws InvalidArgument for a period
/// below 1.
void set_periodic_windows(ModelConfig& config, int window, int64_t period);

/// Windows from GGUF: `attention.sliding_window` for the layers that `attention.sliding_window_pattern` (a list of booleans or
/// a period) names, by default all but each `period`-th. Without a window no layer has one. Throws InvalidArgument naming the
/// key for a list of another length.
void read_gguf_windows(const GgufKeys& keys, ModelConfig& config, int64_t period);

/// The reverse: writes the list where the windows are not those of `period`.
void write_gguf_windows(const ModelConfig& config, const GgufKeyWriter& keys, int64_t period);

/// Only layers with a window rotate q and k.
void rotate_windowed_layers(ModelConfig& config);

}  // namespace pagoda::arch

// Writes a Hugging Face checkpoint's weights as safetensors: as they are, cast, or quantised. Behind `enginectl convert IN
// DIR`; the other files of the directory are Python's.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "io/safetensors_writer.h"
#include "model/loader.h"

namespace pagoda {

struct DirectoryExport {
  SafetensorsFiles files;
  /// Linear modules that stay plain where others are quantised: `ignore` of compressed-tensors' quantization_config.
  std::vector<std::string> plain_modules;
};

/// Writes the weights into the directory `path`. `format`:
/// - nothing: every tensor as it is;
/// - f32, f16, bf16: tensors of such floats in this one, matrices that the checkpoint keeps quantised decoded to it;
/// - int4, int8, f8_e4m3: the layers' linear matrices as compressed-tensors keeps them, which CompressedTensors reads: int4 and
///   int8 in groups of 32 columns to the values that weight_format gives on load, f8_e4m3 with one scale for each row. Those
///   whose columns are no multiple of 32 stay as they are, and so does all else.
/// `checkpoint` may be null for f32, f16, bf16 and nothing when the weights in `source` are not quantised. Throws
/// InvalidArgument naming what does not fit.
DirectoryExport export_directory(const WeightSource& source, const Checkpoint* checkpoint, std::optional<WeightFormat> format,
                                 const std::string& path, size_t max_file_bytes, ThreadPool& pool,
                                 const WriteProgress& progress);

/// The format that a weight_format of `enginectl convert` means for a directory; nothing for "auto". Throws InvalidArgument
/// listing those allowed.
std::optional<WeightFormat> parse_directory_format(const std::string& name);

}  // namespace pagoda

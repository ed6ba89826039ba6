// Writes a checkpoint as a GGUF file that gives the same model. Behind `enginectl convert IN OUT.gguf`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "io/gguf_writer.h"
#include "model/loader.h"

namespace pagoda {

/// What becomes of the weights.
struct GgufExport {
  size_t bytes = 0;  ///< of all tensors
  size_t num_tensors = 0;
  std::string main_format;         ///< of most bytes: "q4_0"
  std::vector<std::string> notes;  ///< sentences about what the file has otherwise than the checkpoint
};

/// Writes `checkpoint`, opened with weight_format auto, to `path`, which must not exist. `metadata` holds what is said besides
/// the model's sizes: general.name, the tokenizer; of a checkpoint that is a GGUF file its own general and tokenizer keys are
/// taken over.
///
/// `format`: what matrices become, as open_checkpoint's weight_format does it on load, so that the file loads to the same bits
/// as the checkpoint does with that weight_format. Nothing: as stored, but what GGUF has no type for becomes f16. Matrices that
/// are quantised already become f32, f16, bf16 or q8_0, if told so.
///
/// GGUF knows no dynamic rope scaling: such a model gets the context in which that scaling does nothing.
///
/// Before a weight is written the file's own header is read back and compared. Throws InvalidArgument for an architecture that
/// GGUF has no name for, a configuration that its files cannot express, or a format that does not fit, naming it.
GgufExport export_gguf(Checkpoint& checkpoint, std::optional<WeightFormat> format, GgufMetadata metadata,
                       const std::string& path, ThreadPool& pool, const WriteProgress& progress);

/// The format that a weight_format of `enginectl convert` means for a GGUF file; nothing for "auto". Throws InvalidArgument
/// listing those allowed.
std::optional<WeightFormat> parse_gguf_format(const std::string& name);

}  // namespace pagoda

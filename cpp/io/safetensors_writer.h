// Writes safetensors files: one, or several of a bounded size. The counterpart of io/safetensors; used by
// model/directory_export.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "io/output_file.h"

namespace pagoda {

/// Which file each tensor went to.
struct SafetensorsFiles {
  std::vector<std::pair<std::string, std::string>> file_of;  ///< tensor, file name; in the order written
  size_t num_files = 0;
  size_t total_bytes = 0;  ///< of all tensors
};

/// Writes `tensors` in their order as `directory`/model.safetensors, or, when they take more than `max_file_bytes`, as
/// model-00001-of-00003.safetensors and so on (a larger tensor gets a file of its own); the index of several files is left to
/// the caller. Types are the format's own ("F32"). Throws InvalidArgument naming the file that cannot be written.
SafetensorsFiles write_safetensors(const std::string& directory, const std::vector<OutputTensor>& tensors,
                                   size_t max_file_bytes, ThreadPool& pool, const WriteProgress& progress);

}  // namespace pagoda

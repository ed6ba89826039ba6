// Chooses the reader.
#include "io/open_weights.h"

#include <filesystem>

#include "io/gguf.h"
#include "io/safetensors.h"

namespace pagoda {

std::unique_ptr<WeightSource> open_weights(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return open_safetensors(path);
  return std::make_unique<GgufFile>(path);
}

}  // namespace pagoda

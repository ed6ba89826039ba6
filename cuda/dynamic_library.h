// A shared library that is looked for and opened while the program runs, so that building and starting need none. Used for
// cuBLASLt.
#pragma once

#include <optional>
#include <span>
#include <string>

namespace pagoda::cuda {

/// Stays open until the process ends: what such libraries leave behind in threads and in the driver cannot be unloaded.
class DynamicLibrary {
 public:
  /// The first of `names` that is found; each is looked for in `folders`, then among what the process has loaded, then where
  /// the system's loader looks. None: why files that do exist could not be opened is appended to `failures`, one after another.
  static std::optional<DynamicLibrary> open(std::span<const char* const> names, std::span<const std::string> folders,
                                            std::string& failures);

  /// Where it was found: a path, or only its name.
  const std::string& path() const { return path_; }
  /// Null if the library has no such function.
  void* find(const char* function) const;

 private:
  DynamicLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}

  void* handle_;
  std::string path_;
};

}  // namespace pagoda::cuda

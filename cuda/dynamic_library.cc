// dlopen in three places.
#include "cuda/dynamic_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <utility>

namespace pagoda::cuda {
namespace {

constexpr int kFlags = RTLD_NOW | RTLD_LOCAL;

}  // namespace

std::optional<DynamicLibrary> DynamicLibrary::open(std::span<const char* const> names, std::span<const std::string> folders,
                                                   std::string& failures) {
  for (const char* name : names) {
    for (const std::string& folder : folders) {
      const std::filesystem::path path = std::filesystem::path(folder) / name;
      std::error_code error;
      // A relative path would be looked up in the working directory, where anybody may have left a file.
      if (!path.is_absolute() || !std::filesystem::exists(path, error)) continue;
      if (void* handle = dlopen(path.c_str(), kFlags)) return DynamicLibrary(handle, path.string());
      const char* reason = dlerror();
      failures += (failures.empty() ? "" : "; ") + std::string(reason ? reason : path.string());
    }
    if (void* handle = dlopen(name, kFlags | RTLD_NOLOAD)) return DynamicLibrary(handle, name);
    if (void* handle = dlopen(name, kFlags)) return DynamicLibrary(handle, name);
  }
  return std::nullopt;
}

void* DynamicLibrary::find(const char* function) const { return dlsym(handle_, function); }

}  // namespace pagoda::cuda

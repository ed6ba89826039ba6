// A whole file mapped into memory, read-only. Owns the mapping; the weight readers keep theirs open as long as tensors point
// into it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pagoda {

/// Movable, not copyable; data() stays the same when moved. A file that another process shortens while it is mapped ends this
/// process with SIGBUS, as with every mapping: replace model files by renaming, not by writing into them.
class MappedFile {
 public:
  /// Maps the file at `path`, following symbolic links. Throws InvalidArgument that names the path and the cause: absent, a
  /// dangling link, not readable, not a regular file, empty, or a Git-LFS pointer in the place of the real content.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }  ///< page-aligned
  size_t size() const { return size_; }            ///< at least 1
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pagoda

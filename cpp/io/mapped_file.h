// A whole file mapped into memory, read-only, or bytes that take its place. Owns the mapping; the weight readers keep theirs
// open as long as tensors point into it.
#pragma once

#include <cstddef>
#include <memory>
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
  /// A copy of `bytes` under the name of a file, for readers of what is no file; nothing readable lies behind its end. Throws
  /// as above for bytes that are empty or a Git-LFS pointer.
  static MappedFile from_bytes(const std::string& path, std::string_view bytes);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }  ///< aligned to at least 16 bytes
  size_t size() const { return size_; }            ///< at least 1
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile() = default;
  void refuse_pointer() const;

  std::string path_;
  std::unique_ptr<std::byte[]> owned_;  // null for a mapping
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pagoda

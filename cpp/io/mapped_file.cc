// Opening and mapping of files, with one clear message per way it can fail.
#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

/// An open file descriptor.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

std::string cause_of(int error, const std::string& path) {
  std::error_code ignored;
  if (error == ENOENT && std::filesystem::is_symlink(path, ignored)) {
    return "it is a dangling symbolic link to " + std::filesystem::read_symlink(path, ignored).string();
  }
  return std::generic_category().message(error);
}

}  // namespace

// Delegates, so that the destructor runs when the content is refused.
MappedFile::MappedFile(const std::string& path) : MappedFile() {
  path_ = path;
  // O_NONBLOCK: opening a pipe must fail the check below, not wait for a writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) throw InvalidArgument("cannot open " + path + ": " + cause_of(errno, path));
  struct stat status{};
  if (::fstat(file.fd, &status) != 0) throw InvalidArgument("cannot read " + path + ": " + cause_of(errno, path));
  require(!S_ISDIR(status.st_mode), "cannot read ", path, ": it is a directory, expected a file");
  require(S_ISREG(status.st_mode), "cannot read ", path, ": it is not a regular file");
  require(status.st_size > 0, "cannot read ", path, ": it is empty");
  const auto size = static_cast<size_t>(status.st_size);
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapped == MAP_FAILED) throw InvalidArgument(str("cannot map ", path, " (", size, " bytes): ", cause_of(errno, path)));
  data_ = static_cast<const std::byte*>(mapped);
  size_ = size;
  refuse_pointer();
}

MappedFile MappedFile::from_bytes(const std::string& path, std::string_view bytes) {
  require(!bytes.empty(), "cannot read ", path, ": it is empty");
  MappedFile file;
  file.path_ = path;
  file.owned_.reset(new std::byte[bytes.size()]);
  std::memcpy(file.owned_.get(), bytes.data(), bytes.size());
  file.data_ = file.owned_.get();
  file.size_ = bytes.size();
  file.refuse_pointer();
  return file;
}

void MappedFile::refuse_pointer() const {
  require(!text().starts_with("version https://git-lfs"), path_,
          " is a Git-LFS pointer, not the file itself: run `git lfs pull` in its repository");
}

MappedFile::~MappedFile() {
  if (data_ && !owned_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      owned_(std::move(other.owned_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(owned_, other.owned_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace pagoda

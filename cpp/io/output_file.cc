// Plain system calls, so that a full disk is reported when it happens and with the system's reason.
#include "io/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;
constexpr size_t kTaskBytes = size_t{1} << 17;

}  // namespace

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file_ < 0) fail("created");
}

OutputFile::~OutputFile() {
  if (file_ >= 0) ::close(file_);
}

void OutputFile::fail(const char* what) const {
  throw InvalidArgument(str(path_, ": cannot be ", what, ": ", std::strerror(errno)));
}

void OutputFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  position_ += bytes;
  while (bytes > 0) {
    const ssize_t written = ::write(file_, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("written");
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void OutputFile::pad(size_t alignment) {
  const size_t over = position_ % alignment;
  if (over) write(std::string(alignment - over, '\0'));
}

void OutputFile::reserve(size_t bytes) {
  if (::ftruncate(file_, static_cast<off_t>(bytes)) != 0) fail("written");
}

void OutputFile::close() {
  if (::fsync(file_) != 0 && errno != EINVAL && errno != ENOTSUP) fail("written");
  if (::close(std::exchange(file_, -1)) != 0) fail("written");
}

void TensorWriter::write(const OutputTensor& tensor, OutputFile& file) {
  if (tensor.bytes() == 0) return;
  const auto step = static_cast<int64_t>(std::max<size_t>(1, kBufferBytes / tensor.row_bytes));
  const auto task_rows = static_cast<int64_t>(std::max<size_t>(1, kTaskBytes / tensor.row_bytes));
  for (int64_t begin = 0; begin < tensor.num_rows; begin += step) {
    const int64_t rows = std::min(step, tensor.num_rows - begin);
    const size_t bytes = static_cast<size_t>(rows) * tensor.row_bytes;
    buffer_.resize(std::max(buffer_.size(), bytes));
    pool_.run((rows + task_rows - 1) / task_rows, [&](int64_t task, int) {
      for (int64_t row = task * task_rows; row < std::min(rows, (task + 1) * task_rows); ++row) {
        tensor.read(begin + row, buffer_.data() + static_cast<size_t>(row) * tensor.row_bytes);
      }
    });
    file.write(buffer_.data(), bytes);
    done_ += bytes;
    if (progress_) progress_(done_, total_);
  }
}

}  // namespace pagoda

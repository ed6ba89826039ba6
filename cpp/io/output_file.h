// A file that is written from front to back, and the tensors that go into it row by row. Used by gguf_writer and
// safetensors_writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/thread_pool.h"

namespace pagoda {

/// A tensor that is made while it is written.
struct OutputTensor {
  std::string name;
  std::string type;            ///< the file kind's own word: "Q8_0", "F8_E4M3"
  std::vector<int64_t> shape;  ///< row-major, outermost first
  int64_t num_rows = 0;        ///< how many pieces of row_bytes it is made in
  size_t row_bytes = 0;
  std::function<void(int64_t row, std::byte* out)> read;  ///< makes one of them; pure, any thread

  size_t bytes() const { return static_cast<size_t>(num_rows) * row_bytes; }
};

/// Hears of bytes of tensors written, of how many. An exception that it throws ends the writing and is passed on.
using WriteProgress = std::function<void(size_t done, size_t total)>;

/// Throws InvalidArgument naming the path and the system's reason when the file cannot be created or written ("No space left
/// on device"). Whoever made it removes what a failure leaves behind.
class OutputFile {
 public:
  /// Creates the file; there must be none.
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  size_t position() const { return position_; }

  void write(const void* data, size_t bytes);
  void write(const std::string& text) { write(text.data(), text.size()); }
  /// Writes zeros up to the next multiple of `alignment`.
  void pad(size_t alignment);
  /// Makes the file `bytes` long at once; what is not written yet reads as zeros.
  void reserve(size_t bytes);
  /// Brings everything to the disk and closes the file.
  void close();

 private:
  [[noreturn]] void fail(const char* what) const;

  std::string path_;
  int file_ = -1;
  size_t position_ = 0;
};

/// Writes tensors one after another with the pool's threads, a few MiB in memory at a time.
class TensorWriter {
 public:
  /// `total`: bytes of all tensors that will be written, for `progress`, which may be empty.
  TensorWriter(ThreadPool& pool, size_t total, WriteProgress progress)
      : pool_(pool), total_(total), progress_(std::move(progress)) {}

  void write(const OutputTensor& tensor, OutputFile& file);

 private:
  ThreadPool& pool_;
  size_t total_;
  size_t done_ = 0;
  WriteProgress progress_;
  std::vector<std::byte> buffer_;
};

}  // namespace pagoda

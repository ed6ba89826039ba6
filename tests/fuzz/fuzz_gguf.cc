// GGUF: metadata, tensors, and what the model floor makes of both.
#include <memory>
#include <utility>

#include "core/check.h"
#include "io/gguf.h"
#include "model/gguf_config.h"
#include "model/loader.h"
#include "targets.h"

namespace pagoda {
namespace {

constexpr int64_t kNumPositions = 8;

size_t read_element(const GgufArray& array, size_t i) {
  switch (array.type()) {
    case GgufType::string:
      return array.string_at(i).size();
    case GgufType::boolean:
      return array.bool_at(i);
    default:
      return array.double_at(i) > 0;
  }
}

size_t read_metadata(const GgufFile& file) {
  size_t total = 0;
  for (const GgufEntry& entry : file.metadata()) {
    total += entry.value.describe().size();
    ensure(file.find_value(entry.key) == &entry.value, "metadata ", entry.key, " is found elsewhere");
    const auto* array = std::get_if<GgufArray>(&entry.value.held());
    for (size_t i = 0; array && i < array->size(); ++i) {
      try {
        total += read_element(*array, i);
      } catch (const InvalidArgument&) {  // an unsigned number above 2^63-1
        total += 1;
      }
    }
  }
  return total;
}

/// Bytes of parts as they are stored, at most.
size_t stored_bytes(std::span<const WeightPart> parts) {
  size_t bytes = 0;
  for (const WeightPart& part : parts) bytes += static_cast<size_t>(part.rows) * weight_row_bytes(part.format, part.cols);
  return bytes;
}

void plan(std::unique_ptr<GgufFile> file) {
  BackendTraits traits{};
  traits.packed_bytes = stored_bytes;
  Checkpoint checkpoint;
  checkpoint.config = read_gguf_config(*file);
  checkpoint.source = std::move(file);
  checkpoint.is_gguf = true;
  plan_decoder(checkpoint, traits, kNumPositions);
}

}  // namespace

bool fuzz_gguf(std::string_view bytes) {
  std::unique_ptr<GgufFile> file;
  try {
    file = std::make_unique<GgufFile>(MappedFile::from_bytes("fuzz.gguf", bytes));
  } catch (const InvalidArgument&) {
    return false;
  }
  ensure(read_metadata(*file) + read_tensors(*file) > 0, "an accepted file without anything to read");
  try {
    plan(std::move(file));
  } catch (const InvalidArgument&) {
    return true;  // a file, but no model
  }
  return true;
}

}  // namespace pagoda

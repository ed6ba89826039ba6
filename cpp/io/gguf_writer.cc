// Numbers are little-endian, as on every machine this builds for.
#include "io/gguf_writer.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "core/check.h"
#include "io/ggml_type.h"

namespace pagoda {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kVersion = 3;

template <class T>
void append(std::string& out, T value) {
  const size_t at = out.size();
  out.resize(at + sizeof value);
  std::memcpy(out.data() + at, &value, sizeof value);
}

void append_string(std::string& out, std::string_view text) {
  append(out, uint64_t{text.size()});
  out += text;
}

void append_value(std::string& out, bool value) { out += value ? '\1' : '\0'; }
void append_value(std::string& out, const std::string& value) { append_string(out, value); }
template <class T>
void append_value(std::string& out, T value) {
  append(out, value);
}

template <class T>
constexpr GgufType kTypeOf = GgufType::boolean;
template <>
constexpr GgufType kTypeOf<uint8_t> = GgufType::u8;
template <>
constexpr GgufType kTypeOf<uint32_t> = GgufType::u32;
template <>
constexpr GgufType kTypeOf<int32_t> = GgufType::i32;
template <>
constexpr GgufType kTypeOf<uint64_t> = GgufType::u64;
template <>
constexpr GgufType kTypeOf<float> = GgufType::f32;
template <>
constexpr GgufType kTypeOf<std::string> = GgufType::string;

/// Type and bytes of an item.
struct Encoder {
  GgufType type = GgufType::boolean;
  std::string bytes;

  template <class T>
  void operator()(const std::vector<T>& values) {
    type = GgufType::array;
    append(bytes, static_cast<uint32_t>(kTypeOf<T>));
    append(bytes, uint64_t{values.size()});
    for (const T& value : values) append_value(bytes, value);
  }
  template <class T>
  void operator()(const T& value) {
    type = kTypeOf<T>;
    append_value(bytes, value);
  }
};

/// A number as the type that its file says.
void append_number(std::string& out, GgufType type, const GgufValue& value) {
  switch (type) {
    case GgufType::f32:
      return append(out, static_cast<float>(value.as_double()));
    case GgufType::f64:
      return append(out, value.as_double());
    case GgufType::boolean:
      return append_value(out, value.as_bool());
    default:
      break;
  }
  const auto* natural = std::get_if<uint64_t>(&value.held());
  const uint64_t bits = natural ? *natural : static_cast<uint64_t>(value.as_int());
  out.append(reinterpret_cast<const char*>(&bits), gguf_type_bytes(type));
}

void append_array(std::string& out, const GgufArray& array) {
  append(out, static_cast<uint32_t>(array.type()));
  append(out, uint64_t{array.size()});
  out += array.bytes();
  for (size_t i = 0; array.type() == GgufType::string && i < array.size(); ++i) append_string(out, array.string_at(i));
}

const GgmlType& type_of(const OutputTensor& tensor) {
  for (uint32_t id = 0; id < 64; ++id) {
    const GgmlType* type = find_ggml_type(id);
    if (type && type->name == tensor.type) return *type;
  }
  throw InternalError(str("tensor ", tensor.name, " of type ", tensor.type, " for a GGUF file"));
}

size_t aligned(size_t bytes) { return (bytes + GgufWriter::kAlignment - 1) / GgufWriter::kAlignment * GgufWriter::kAlignment; }

void append_descriptions(std::string& out, const std::vector<OutputTensor>& tensors, const std::string& path) {
  std::set<std::string_view> names;
  size_t offset = 0;
  for (const OutputTensor& tensor : tensors) {
    require(names.insert(tensor.name).second, path, ": two tensors would be named ", tensor.name);
    append_string(out, tensor.name);
    append(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) append(out, static_cast<uint64_t>(*size));
    append(out, type_of(tensor).id);
    append(out, uint64_t{offset});
    offset += aligned(tensor.bytes());
  }
}

}  // namespace

void GgufMetadata::set(std::string_view key, const GgufItem& item) {
  Encoder encoder;
  std::visit([&](const auto& value) { encoder(value); }, item);
  put(key, encoder.type, std::move(encoder.bytes));
}

void GgufMetadata::set(std::string_view key, const GgufValue& value) {
  std::string bytes;
  if (const auto* text = std::get_if<std::string_view>(&value.held())) {
    append_string(bytes, *text);
  } else if (const auto* array = std::get_if<GgufArray>(&value.held())) {
    append_array(bytes, *array);
  } else {
    append_number(bytes, value.type(), value);
  }
  put(key, value.type(), std::move(bytes));
}

void GgufMetadata::put(std::string_view key, GgufType type, std::string bytes) {
  if (const Entry* known = find(key)) {
    const auto at = static_cast<size_t>(known - entries_.data());
    entries_[at].type = type;
    entries_[at].bytes = std::move(bytes);
  } else {
    entries_.push_back({std::string(key), type, std::move(bytes)});
  }
}

const GgufMetadata::Entry* GgufMetadata::find(std::string_view key) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  return found == entries_.end() ? nullptr : &*found;
}

bool GgufMetadata::has(std::string_view key) const { return find(key) != nullptr; }

std::optional<uint32_t> GgufMetadata::find_u32(std::string_view key) const {
  const Entry* entry = find(key);
  if (!entry || entry->type != GgufType::u32) return std::nullopt;
  uint32_t value = 0;
  std::memcpy(&value, entry->bytes.data(), sizeof value);
  return value;
}

std::string GgufMetadata::encoded() const {
  std::string out;
  for (const Entry& entry : entries_) {
    append_string(out, entry.key);
    append(out, static_cast<uint32_t>(entry.type));
    out += entry.bytes;
  }
  return out;
}

GgufWriter::GgufWriter(const std::string& path, GgufMetadata metadata, std::vector<OutputTensor> tensors)
    : tensors_(std::move(tensors)), file_(path) {
  metadata.set("general.alignment", uint32_t{kAlignment});
  std::string head;
  append(head, kMagic);
  append(head, kVersion);
  append(head, uint64_t{tensors_.size()});
  append(head, uint64_t{metadata.size()});
  head += metadata.encoded();
  append_descriptions(head, tensors_, path);
  file_.write(head);
  file_.pad(kAlignment);
  size_t end = file_.position();
  for (const OutputTensor& tensor : tensors_) end += aligned(tensor.bytes());
  file_.reserve(end);
}

size_t GgufWriter::tensor_bytes() const {
  size_t bytes = 0;
  for (const OutputTensor& tensor : tensors_) bytes += tensor.bytes();
  return bytes;
}

void GgufWriter::write_next(TensorWriter& writer) {
  ensure(next_ < tensors_.size(), "GgufWriter: no tensor is left");
  writer.write(tensors_[next_++], file_);
  file_.pad(kAlignment);
}

void GgufWriter::finish() {
  ensure(next_ == tensors_.size(), "GgufWriter: ", tensors_.size() - next_, " tensors are not written");
  file_.close();
}

}  // namespace pagoda

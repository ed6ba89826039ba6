// The safetensors header reader. Every number from the file is checked before it is used in arithmetic.
#include "io/safetensors_file.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/check.h"
#include "core/json.h"
#include "core/utf8.h"

namespace pagoda {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxTensors = size_t{1} << 18;
constexpr size_t kMaxJsonValues = 12 * kMaxTensors;  // a 4-dimensional tensor takes ten

/// An element type of the format: its size, and the weight format if it is one.
struct ElementType {
  std::string_view name;
  int bits;
  std::optional<WeightFormat> format;
};

constexpr ElementType kElementTypes[] = {
    {"F32", 32, WeightFormat::f32},
    {"F16", 16, WeightFormat::f16},
    {"BF16", 16, WeightFormat::bf16},
    {"F64", 64, {}},
    {"C64", 64, {}},
    {"I64", 64, {}},
    {"U64", 64, {}},
    {"I32", 32, {}},
    {"U32", 32, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},
    {"F8_E5M2FNUZ", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
};

const ElementType* find_element_type(std::string_view name) {
  for (const ElementType& type : kElementTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

std::string known_types() {
  std::string text;
  for (const ElementType& type : kElementTypes) text += (text.empty() ? "" : " ") + std::string(type.name);
  return text;
}

/// A tensor's byte range within the data that follows the header.
struct Span {
  int64_t begin;
  int64_t end;
  size_t entry;
};

class HeaderReader {
 public:
  explicit HeaderReader(const MappedFile& file) : file_(file) {}

  std::vector<TableEntry> read() {
    const Json header = parse_header();
    require(header.is_object(), where(), "expected an object of tensors, found ", header.describe());
    require(header.members().size() <= kMaxTensors + 1, where(), header.members().size(), " tensors are above the limit of ",
            kMaxTensors);
    for (const Json::Member& member : header.members()) {
      if (member.key == "__metadata__") {
        if (!member.value.is_object())
          throw InvalidArgument(where() + "__metadata__ must be an object, found " + member.value.describe());
      } else {
        read_tensor(member.key, member.value);
      }
    }
    check_coverage();
    return std::move(entries_);
  }

 private:
  std::string where() const { return file_.path() + ": header: "; }

  Json parse_header() {
    const size_t size = file_.size();
    if (size < kLengthBytes) {
      throw InvalidArgument(str(file_.path(), ": byte 0: the header length takes 8 bytes, the file has ", size));
    }
    uint64_t length = 0;
    std::memcpy(&length, file_.data(), sizeof length);
    require(length <= kMaxHeaderBytes, file_.path(), ": byte 0: header length ", length, " is above the limit of ",
            kMaxHeaderBytes, " bytes (is this a safetensors file?)");
    require(length <= size - kLengthBytes, file_.path(), ": byte 0: header length ", length, ", but only ", size - kLengthBytes,
            " bytes follow (is the file truncated?)");
    const std::string_view text = file_.text().substr(kLengthBytes, static_cast<size_t>(length));
    const size_t valid = utf8_valid_prefix(text);
    require(valid == text.size(), file_.path(), ": byte ", kLengthBytes + valid, ": the header is not UTF-8");
    data_begin_ = kLengthBytes + text.size();
    data_bytes_ = static_cast<int64_t>(size - data_begin_);
    Json::ParseOptions options;
    options.source = file_.path() + ": header";
    options.refuse_duplicate_keys = true;
    options.max_values = kMaxJsonValues;
    return Json::parse(text, options);
  }

  /// The non-negative integers of an array field of a tensor.
  std::vector<int64_t> read_integers(const std::string& tensor, const Json& fields, const char* field) const {
    const Json* array = fields.find(field);
    if (!array || !array->is_array()) {
      throw InvalidArgument(str(where(), "tensor ", quote_name(tensor), ": ", field, " must be an array, found ",
                                array ? array->describe() : "nothing"));
    }
    std::vector<int64_t> values;
    values.reserve(array->items().size());
    for (const Json& item : array->items()) {
      if (!item.is_integer() || item.as_int() < 0) {
        throw InvalidArgument(str(where(), "tensor ", quote_name(tensor), ": ", field,
                                  " must hold integers from 0 to 2^63-1, found ", item.describe()));
      }
      values.push_back(item.as_int());
    }
    return values;
  }

  const ElementType& read_type(const std::string& tensor, const Json& fields) const {
    const Json* dtype = fields.find("dtype");
    const ElementType* type = dtype && dtype->is_string() ? find_element_type(dtype->as_string()) : nullptr;
    if (!type) {
      throw InvalidArgument(str(where(), "tensor ", quote_name(tensor), ": dtype must be one of ", known_types(), ", found ",
                                dtype ? dtype->describe() : "nothing"));
    }
    return *type;
  }

  void read_tensor(const std::string& name, const Json& fields) {
    const std::string tensor = where() + "tensor " + quote_name(name) + ": ";
    if (!fields.is_object()) throw InvalidArgument(tensor + "expected an object, found " + fields.describe());
    const ElementType& type = read_type(name, fields);
    TableEntry entry;
    entry.tensor.name = name;
    entry.type = type.name;
    entry.tensor.shape = read_integers(name, fields, "shape");
    const std::vector<int64_t> offsets = read_integers(name, fields, "data_offsets");
    require(offsets.size() == 2, tensor, "data_offsets must be [begin, end], found ", offsets.size(), " numbers");
    const int64_t begin = offsets[0];
    const int64_t end = offsets[1];
    require(begin <= end, tensor, "data_offsets [", begin, ", ", end, "] end before they begin");
    require(end <= data_bytes_, tensor, "data_offsets [", begin, ", ", end, "] lie beyond the ", data_bytes_,
            " bytes of data (is the file truncated?)");
    int64_t numel = 0;
    int64_t bits = 0;
    const bool fits = checked_numel(entry.tensor.shape, &numel) && !__builtin_mul_overflow(numel, int64_t{type.bits}, &bits);
    require(fits, tensor, "shape ", shape_text(entry.tensor.shape), " has more elements than 64 bits can count");
    require(bits % 8 == 0 && bits / 8 == end - begin, tensor, "shape ", shape_text(entry.tensor.shape), " of ", type.name,
            " takes ", (bits + 7) / 8, " bytes, data_offsets [", begin, ", ", end, "] hold ", end - begin);
    entry.tensor.data = file_.data() + data_begin_ + begin;
    entry.tensor.bytes = static_cast<size_t>(end - begin);
    if (type.format) {
      entry.tensor.format = *type.format;
    } else {
      entry.refusal = str("its type ", type.name, " is not a weight type (F32, F16 or BF16)");
    }
    if (numel == 0) entry.refusal = "its shape " + shape_text(entry.tensor.shape) + " has no elements";
    spans_.push_back({begin, end, entries_.size()});
    entries_.push_back(std::move(entry));
  }

  /// The format wants the data covered exactly once: bytes that belong to two tensors or to none are how files get hidden in
  /// files.
  void check_coverage() {
    std::sort(spans_.begin(), spans_.end(),
              [](const Span& a, const Span& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    int64_t covered = 0;
    const Span* previous = nullptr;
    for (const Span& span : spans_) {
      if (span.begin != covered) {
        const std::string after = previous ? "tensor " + quote_name(entries_[previous->entry].tensor.name) : "the header";
        throw InvalidArgument(str(where(), "tensor ", quote_name(entries_[span.entry].tensor.name), " begins at byte ",
                                  span.begin, " of the data, ", span.begin < covered ? "inside " : "leaving a hole after ",
                                  after, ", which ends at ", covered));
      }
      covered = span.end;
      previous = &span;
    }
    require(covered == data_bytes_, file_.path(), ": the tensors end at byte ", covered, " of the data, but ",
            data_bytes_ - covered, " more bytes follow");
  }

  const MappedFile& file_;
  size_t data_begin_ = 0;
  int64_t data_bytes_ = 0;
  std::vector<TableEntry> entries_;
  std::vector<Span> spans_;
};

}  // namespace

std::vector<TableEntry> read_safetensors(const MappedFile& file) { return HeaderReader(file).read(); }

}  // namespace pagoda

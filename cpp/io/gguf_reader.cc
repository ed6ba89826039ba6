// The GGUF reader. A cursor that knows the file's end hands out every byte; counts are compared with the bytes that are left
// before anything is allocated by them, and sums and products are checked.
#include "io/gguf_reader.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "core/check.h"
#include "core/utf8.h"
#include "io/ggml_type.h"

namespace pagoda {
namespace {

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxNameBytes = 63;  // ggml keeps names in 64 bytes with a final zero
constexpr uint32_t kMaxDims = 4;
constexpr size_t kMinEntryBytes = 8 + 4 + 1;           // key length, type, a one-byte value
constexpr size_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;  // name length, rank, one dimension, type, offset

class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file) {}

  size_t offset() const { return at_; }
  size_t left() const { return file_.size() - at_; }

  [[noreturn]] void fail(size_t offset, const std::string& what) const {
    throw InvalidArgument(str(file_.path(), ": byte ", offset, ": ", what));
  }

  const std::byte* take(uint64_t bytes, const std::string& what) {
    if (bytes > left()) fail(at_, str(what, " takes ", bytes, " bytes, but the file ends after ", left(), " more"));
    const std::byte* from = file_.data() + at_;
    at_ += static_cast<size_t>(bytes);
    return from;
  }

  template <class T>
  T read(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof value, what), sizeof value);
    return value;
  }

  std::string_view read_string(const std::string& what) {
    const auto length = read<uint64_t>("the length of " + what);
    return {reinterpret_cast<const char*>(take(length, what)), static_cast<size_t>(length)};
  }

  /// A key or name: short, not empty, UTF-8.
  std::string_view read_name(const std::string& what, uint64_t max_bytes) {
    const size_t begin = at_;
    const auto length = read<uint64_t>("the length of " + what);
    if (length == 0 || length > max_bytes) fail(begin, str(what, " must have 1 to ", max_bytes, " bytes, found ", length));
    const std::string_view name{reinterpret_cast<const char*>(take(length, what)), static_cast<size_t>(length)};
    if (utf8_valid_prefix(name) != name.size()) fail(begin + 8 + utf8_valid_prefix(name), what + " is not UTF-8");
    return name;
  }

 private:
  const MappedFile& file_;
  size_t at_ = 0;
};

class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file), cursor_(file) {}

  GgufContents read() {
    read_header();
    for (uint64_t i = 0; i < num_entries_; ++i) read_entry(i);
    index_metadata();
    const uint64_t alignment = find_alignment();
    for (uint64_t i = 0; i < num_tensors_; ++i) read_tensor(i);
    place_tensors(alignment);
    out_.tensors = std::move(entries_);
    return std::move(out_);
  }

 private:
  void read_header() {
    const auto magic = cursor_.take(4, "the magic number");
    if (std::memcmp(magic, "GGUF", 4) != 0) cursor_.fail(0, "this is not a GGUF file: it does not begin with the letters GGUF");
    const auto version = cursor_.read<uint32_t>("the version");
    if (version != 0 && (version & 0xffff) == 0) {
      cursor_.fail(4, "the file is big-endian (its version reads backwards); only little-endian GGUF is supported");
    }
    if (version != 2 && version != 3) cursor_.fail(4, str("GGUF version ", version, " is not supported, only 2 and 3 are"));
    out_.version = version;
    num_tensors_ = cursor_.read<uint64_t>("the number of tensors");
    num_entries_ = cursor_.read<uint64_t>("the number of metadata entries");
    if (num_entries_ > cursor_.left() / kMinEntryBytes) {
      cursor_.fail(16, str(num_entries_, " metadata entries do not fit into the ", cursor_.left(), " bytes that follow"));
    }
    if (num_tensors_ > cursor_.left() / kMinTensorBytes) {
      cursor_.fail(8, str(num_tensors_, " tensors do not fit into the ", cursor_.left(), " bytes that follow"));
    }
  }

  void read_entry(uint64_t i) {
    const std::string_view key = cursor_.read_name(str("the key of metadata entry ", i), kMaxKeyBytes);
    const std::string what = "metadata " + quote_name(key);
    const GgufType type = read_type(what);
    out_.metadata.push_back({key, type == GgufType::array ? read_array(what) : read_scalar(type, what)});
  }

  GgufType read_type(const std::string& what) {
    const size_t begin = cursor_.offset();
    const auto id = cursor_.read<uint32_t>("the type of " + what);
    if (id >= kNumGgufTypes)
      cursor_.fail(begin, str(what, " has the unknown value type ", id, ", known are 0 to ", kNumGgufTypes - 1));
    return static_cast<GgufType>(id);
  }

  GgufValue read_scalar(GgufType type, const std::string& what) {
    switch (type) {
      case GgufType::u8:
        return {type, uint64_t{cursor_.read<uint8_t>(what)}};
      case GgufType::u16:
        return {type, uint64_t{cursor_.read<uint16_t>(what)}};
      case GgufType::u32:
        return {type, uint64_t{cursor_.read<uint32_t>(what)}};
      case GgufType::u64:
        return {type, cursor_.read<uint64_t>(what)};
      case GgufType::i8:
        return {type, int64_t{cursor_.read<int8_t>(what)}};
      case GgufType::i16:
        return {type, int64_t{cursor_.read<int16_t>(what)}};
      case GgufType::i32:
        return {type, int64_t{cursor_.read<int32_t>(what)}};
      case GgufType::i64:
        return {type, cursor_.read<int64_t>(what)};
      case GgufType::f32:
        return {type, double{cursor_.read<float>(what)}};
      case GgufType::f64:
        return {type, cursor_.read<double>(what)};
      case GgufType::string:
        return {type, cursor_.read_string(what)};
      case GgufType::boolean: {
        const size_t begin = cursor_.offset();
        const auto value = cursor_.read<uint8_t>(what);
        if (value > 1) cursor_.fail(begin, str(what, " is a bool and must be 0 or 1, found ", int{value}));
        return {type, value == 1};
      }
      case GgufType::array:
        break;
    }
    throw InternalError("read_scalar of an array");
  }

  GgufValue read_array(const std::string& what) {
    const size_t begin = cursor_.offset();
    const GgufType type = read_type("the elements of " + what);
    if (type == GgufType::array) cursor_.fail(begin, what + " is an array of arrays, which is not supported");
    const auto size = cursor_.read<uint64_t>("the length of " + what);
    const size_t element_bytes = type == GgufType::string ? 8 : gguf_type_bytes(type);  // a string takes at least its length
    if (size > cursor_.left() / element_bytes) {
      cursor_.fail(begin, str(what, " is an array of ", size, " ", gguf_type_name(type), ", which do not fit into the ",
                              cursor_.left(), " bytes that follow"));
    }
    const auto count = static_cast<size_t>(size);
    if (type != GgufType::string) return {GgufType::array, GgufArray(type, cursor_.take(count * element_bytes, what), count)};
    std::vector<uint64_t> offsets(count);
    for (uint64_t& offset : offsets) {
      offset = cursor_.offset();
      cursor_.read_string(what);
    }
    return {GgufType::array, GgufArray(file_.data(), std::move(offsets))};
  }

  void index_metadata() {
    const std::vector<GgufEntry>& metadata = out_.metadata;
    out_.by_key.resize(metadata.size());
    std::iota(out_.by_key.begin(), out_.by_key.end(), size_t{0});
    std::sort(out_.by_key.begin(), out_.by_key.end(), [&](size_t a, size_t b) { return metadata[a].key < metadata[b].key; });
    for (size_t i = 1; i < out_.by_key.size(); ++i) {
      const std::string_view key = metadata[out_.by_key[i]].key;
      require(key != metadata[out_.by_key[i - 1]].key, file_.path(), ": the metadata key ", quote_name(key), " appears twice");
    }
  }

  uint64_t find_alignment() const {
    const GgufValue* value = out_.find_value("general.alignment");
    if (!value) return kDefaultAlignment;
    const auto* number = value->type() == GgufType::u32 ? std::get_if<uint64_t>(&value->held()) : nullptr;
    // A multiple of 8, and a power of two as ggml itself demands.
    if (!number || *number < 8 || (*number & (*number - 1)) != 0) {
      throw InvalidArgument(str(file_.path(), ": metadata 'general.alignment' must be a u32, a power of two and >= 8, found ",
                                value->describe()));
    }
    return *number;
  }

  void read_tensor(uint64_t i) {
    const std::string_view name = cursor_.read_name(str("the name of tensor ", i), kMaxNameBytes);
    const std::string what = "tensor " + quote_name(name);
    size_t begin = cursor_.offset();
    const auto num_dims = cursor_.read<uint32_t>("the rank of " + what);
    if (num_dims == 0 || num_dims > kMaxDims)
      cursor_.fail(begin, str(what, " has ", num_dims, " dimensions, allowed are 1 to ", kMaxDims));
    TableEntry entry;
    entry.tensor.name = name;
    for (uint32_t dim = 0; dim < num_dims; ++dim) {
      begin = cursor_.offset();
      const auto length = cursor_.read<uint64_t>("the shape of " + what);
      if (length == 0 || length > uint64_t{1} << 62) {
        cursor_.fail(begin, str(what, ": dimension ", dim, " must be from 1 to 2^62, found ", length));
      }
      entry.tensor.shape.insert(entry.tensor.shape.begin(), static_cast<int64_t>(length));  // the file lists columns first
    }
    begin = cursor_.offset();
    const auto type_id = cursor_.read<uint32_t>("the type of " + what);
    describe_type(type_id, begin, entry);
    offsets_.push_back(cursor_.read<uint64_t>("the offset of " + what));
    entries_.push_back(std::move(entry));
  }

  /// Sets type, format, size or refusal of a tensor whose shape is known. `offset` is where its type stands in the file.
  void describe_type(uint32_t type_id, size_t offset, TableEntry& entry) const {
    const std::string what = "tensor " + quote_name(entry.tensor.name);
    const std::string shape = shape_text(entry.tensor.shape);
    int64_t numel = 0;
    if (!checked_numel(entry.tensor.shape, &numel))
      cursor_.fail(offset, str(what, ": shape ", shape, " has more elements than 63 bits can count"));
    const GgmlType* type = find_ggml_type(type_id);
    if (!type) {
      entry.type = str("type ", type_id);
      entry.refusal = str("its ggml type ", type_id, " is not known");
      return;
    }
    entry.type = type->name;
    if (entry.tensor.shape.back() % type->block_values != 0) {
      cursor_.fail(offset, str(what, ": rows of ", entry.tensor.shape.back(), " values are not a multiple of ", type->name,
                               "'s block of ", type->block_values));
    }
    int64_t bytes = 0;
    if (__builtin_mul_overflow(numel / type->block_values, type->block_bytes, &bytes)) {
      cursor_.fail(offset, str(what, ": shape ", shape, " of ", type->name, " has more bytes than 63 bits can count"));
    }
    entry.tensor.bytes = static_cast<size_t>(bytes);
    if (type->format) {
      entry.tensor.format = *type->format;
    } else {
      entry.refusal = str("its type ", type->name, " is not supported (supported are ", supported_ggml_types(), ")");
    }
  }

  /// Turns the offsets into pointers: inside the file, aligned, no two tensors overlapping.
  void place_tensors(uint64_t alignment) {
    const uint64_t padding = (alignment - cursor_.offset() % alignment) % alignment;
    const uint64_t data_begin = cursor_.offset() + padding;  // < 2^63 + 2^32
    if (entries_.empty()) return;
    require(data_begin <= file_.size(), file_.path(), ": the data of ", entries_.size(), " tensors begins at byte ", data_begin,
            ", but the file ends at byte ", file_.size());
    const uint64_t data_bytes = file_.size() - data_begin;
    for (size_t i = 0; i < entries_.size(); ++i) {
      StoredTensor& tensor = entries_[i].tensor;
      const std::string what = file_.path() + ": tensor " + quote_name(tensor.name) + ": ";
      require(offsets_[i] % alignment == 0, what, "offset ", offsets_[i], " is not a multiple of the alignment ", alignment);
      require(offsets_[i] <= data_bytes && tensor.bytes <= data_bytes - offsets_[i], what, tensor.bytes, " bytes at offset ",
              offsets_[i], " lie beyond the ", data_bytes, " bytes of data (is the file truncated?)");
      tensor.data = file_.data() + data_begin + offsets_[i];
    }
    std::vector<size_t> order(entries_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return offsets_[a] != offsets_[b] ? offsets_[a] < offsets_[b] : entries_[a].tensor.bytes < entries_[b].tensor.bytes;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const StoredTensor& before = entries_[order[i - 1]].tensor;
      const StoredTensor& after = entries_[order[i]].tensor;
      require(before.data + before.bytes <= after.data, file_.path(), ": tensor ", quote_name(after.name), " at offset ",
              offsets_[order[i]], " overlaps tensor ", quote_name(before.name), " at offset ", offsets_[order[i - 1]], " of ",
              before.bytes, " bytes");
    }
  }

  const MappedFile& file_;
  Cursor cursor_;
  GgufContents out_;
  uint64_t num_tensors_ = 0;
  uint64_t num_entries_ = 0;
  std::vector<TableEntry> entries_;  // in file order
  std::vector<uint64_t> offsets_;    // of entries_, from the start of the data
};

}  // namespace

const GgufValue* find_value(const std::vector<GgufEntry>& metadata, const std::vector<size_t>& by_key, std::string_view key) {
  const auto found = std::lower_bound(by_key.begin(), by_key.end(), key,
                                      [&](size_t place, std::string_view wanted) { return metadata[place].key < wanted; });
  return found != by_key.end() && metadata[*found].key == key ? &metadata[*found].value : nullptr;
}

GgufContents read_gguf(const MappedFile& file) { return Reader(file).read(); }

}  // namespace pagoda

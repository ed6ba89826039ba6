// Typed access to GGUF metadata values.
#include "io/gguf_value.h"

#include <cstring>
#include <limits>

#include "core/check.h"

namespace pagoda {
namespace {

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

bool is_integer(GgufType type) {
  return gguf_type_bytes(type) > 0 && type != GgufType::f32 && type != GgufType::f64 && type != GgufType::boolean;
}

int64_t to_signed(uint64_t value) {
  require(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), "expected an integer up to 2^63-1, found ",
          value);
  return static_cast<int64_t>(value);
}

int64_t load_int(GgufType type, const std::byte* from) {
  switch (type) {
    case GgufType::u8:
      return load<uint8_t>(from);
    case GgufType::i8:
      return load<int8_t>(from);
    case GgufType::u16:
      return load<uint16_t>(from);
    case GgufType::i16:
      return load<int16_t>(from);
    case GgufType::u32:
      return load<uint32_t>(from);
    case GgufType::i32:
      return load<int32_t>(from);
    case GgufType::u64:
      return to_signed(load<uint64_t>(from));
    case GgufType::i64:
      return load<int64_t>(from);
    default:
      throw InternalError(str("load_int of ", gguf_type_name(type)));
  }
}

}  // namespace

const char* gguf_type_name(GgufType type) {
  constexpr const char* kNames[kNumGgufTypes] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                 "bool", "string", "array", "u64", "i64", "f64"};
  return static_cast<uint32_t>(type) < kNumGgufTypes ? kNames[static_cast<uint32_t>(type)] : "?";
}

size_t gguf_type_bytes(GgufType type) {
  constexpr size_t kBytes[kNumGgufTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return static_cast<uint32_t>(type) < kNumGgufTypes ? kBytes[static_cast<uint32_t>(type)] : 0;
}

void GgufArray::check(bool kind_fits, const char* wanted, size_t i) const {
  require(kind_fits, "expected an array of ", wanted, ", found an array of ", gguf_type_name(type_));
  ensure(i < size_, "element ", i, " of an array of ", size_);
}

int64_t GgufArray::int_at(size_t i) const {
  check(is_integer(type_), "integers", i);
  return load_int(type_, data_ + i * gguf_type_bytes(type_));
}

double GgufArray::double_at(size_t i) const {
  if (type_ == GgufType::f32 || type_ == GgufType::f64) {
    check(true, "numbers", i);
    return type_ == GgufType::f32 ? static_cast<double>(load<float>(data_ + 4 * i)) : load<double>(data_ + 8 * i);
  }
  check(is_integer(type_), "numbers", i);
  return static_cast<double>(int_at(i));
}

bool GgufArray::bool_at(size_t i) const {
  check(type_ == GgufType::boolean, "bools", i);
  return load<uint8_t>(data_ + i) != 0;
}

std::string_view GgufArray::string_at(size_t i) const {
  check(type_ == GgufType::string, "strings", i);
  const std::byte* at = data_ + offsets_[i];
  return {reinterpret_cast<const char*>(at + 8), static_cast<size_t>(load<uint64_t>(at))};
}

void GgufValue::refuse(const char* wanted) const { throw InvalidArgument(str("expected ", wanted, ", found ", describe())); }

int64_t GgufValue::as_int() const {
  if (const auto* value = std::get_if<uint64_t>(&held_)) return to_signed(*value);
  if (const auto* value = std::get_if<int64_t>(&held_)) return *value;
  refuse("an integer");
}

double GgufValue::as_double() const {
  if (const auto* value = std::get_if<double>(&held_)) return *value;
  if (const auto* value = std::get_if<uint64_t>(&held_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<int64_t>(&held_)) return static_cast<double>(*value);
  refuse("a number");
}

bool GgufValue::as_bool() const {
  if (const auto* value = std::get_if<bool>(&held_)) return *value;
  refuse("a bool");
}

std::string_view GgufValue::as_string() const {
  if (const auto* value = std::get_if<std::string_view>(&held_)) return *value;
  refuse("a string");
}

const GgufArray& GgufValue::as_array() const {
  if (const auto* value = std::get_if<GgufArray>(&held_)) return *value;
  refuse("an array");
}

std::string GgufValue::describe() const {
  constexpr size_t kShown = 60;
  if (const auto* value = std::get_if<uint64_t>(&held_)) return str(gguf_type_name(type_), " ", *value);
  if (const auto* value = std::get_if<int64_t>(&held_)) return str(gguf_type_name(type_), " ", *value);
  if (const auto* value = std::get_if<double>(&held_)) return str(gguf_type_name(type_), " ", *value);
  if (const auto* value = std::get_if<bool>(&held_)) return *value ? "true" : "false";
  if (const auto* value = std::get_if<std::string_view>(&held_)) {
    return str("the string \"", value->substr(0, kShown), value->size() > kShown ? "...\"" : "\"");
  }
  const GgufArray& array = std::get<GgufArray>(held_);
  return str("an array of ", array.size(), " ", gguf_type_name(array.type()));
}

}  // namespace pagoda

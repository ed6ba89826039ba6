// A metadata value of a GGUF file: a number, a bool, a string, or an array of one of these. Strings and arrays are views of the
// mapped file and live as long as its GgufFile. Made by io/gguf_reader, read by the model configuration and the tokenizer
// bridge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pagoda {

/// Type ids as the format numbers them.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

constexpr uint32_t kNumGgufTypes = 13;

/// "u8", "string", ...
const char* gguf_type_name(GgufType type);

/// Bytes of one number or bool; 0 for strings and arrays.
size_t gguf_type_bytes(GgufType type);

/// An array in the file. Numbers are read from where they lie; of strings only the places are kept.
class GgufArray {
 public:
  GgufArray() = default;
  /// `data` points to `size` packed elements of a fixed-size type.
  GgufArray(GgufType type, const std::byte* data, size_t size) : type_(type), data_(data), size_(size) {}
  /// Strings: string i has its 8-byte length at `data + offsets[i]` and its bytes behind it.
  GgufArray(const std::byte* data, std::vector<uint64_t> offsets)
      : type_(GgufType::string), data_(data), size_(offsets.size()), offsets_(std::move(offsets)) {}

  GgufType type() const { return type_; }
  size_t size() const { return size_; }

  /// Element i as a type, 0 <= i < size(). Throw InvalidArgument when the array is of another kind.
  int64_t int_at(size_t i) const;    ///< of any integer type; u64 values above 2^63-1 are refused
  double double_at(size_t i) const;  ///< of any number type
  bool bool_at(size_t i) const;
  std::string_view string_at(size_t i) const;  ///< any bytes, not necessarily UTF-8

  /// All elements of numbers or bools as the file has them: packed, little-endian. Empty for strings.
  std::string_view bytes() const { return {reinterpret_cast<const char*>(data_), size_ * gguf_type_bytes(type_)}; }

 private:
  void check(bool kind_fits, const char* wanted, size_t i) const;

  GgufType type_ = GgufType::u8;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::vector<uint64_t> offsets_;
};

/// One value. Unsigned kinds are held as uint64_t, signed ones as int64_t, floats as double; `type()` is what the file says.
class GgufValue {
 public:
  using Held = std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>;

  GgufValue(GgufType type, Held held) : type_(type), held_(std::move(held)) {}

  GgufType type() const { return type_; }
  const Held& held() const { return held_; }

  /// The value as a type; throw InvalidArgument naming what was found. No key is named: GgufFile's getters do.
  int64_t as_int() const;    ///< of any integer type
  double as_double() const;  ///< of any number type
  bool as_bool() const;
  std::string_view as_string() const;
  const GgufArray& as_array() const;

  /// A short name for error texts and listings: `u32 64`, `the string "abc"`, `an array of 49152 string`.
  std::string describe() const;

 private:
  [[noreturn]] void refuse(const char* wanted) const;

  GgufType type_;
  Held held_;
};

}  // namespace pagoda

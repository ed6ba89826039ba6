// A small read-only JSON tree for files that come with a model: config.json, safetensors headers, shard indexes.
// Owns its strings. Read by cpp/io and the model configuration; requests are parsed in Python, never here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace pagoda {

/// One JSON value with everything below it. Accessors throw InvalidArgument that names what was found, and the typed getters
/// also the path of the key from the document's root ("text_config.rope_scaling.factor").
class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };
  struct Member;

  struct ParseOptions {
    std::string source = "JSON";          ///< stands in front of every parse error, usually the file's path
    bool refuse_duplicate_keys = false;   ///< false: the last of equal keys wins, at the first one's place, as in Python
    size_t max_values = size_t{1} << 20;  ///< bound on the number of values, because a tree is larger than its text
  };

  /// Parses a whole document: RFC 8259 plus the literals NaN, Infinity and -Infinity that Python writes. Strings are checked to
  /// be UTF-8; nesting ends at 64. Throws InvalidArgument with the byte offset of the first fault.
  static Json parse(std::string_view text, const ParseOptions& options);
  static Json parse(std::string_view text) { return parse(text, ParseOptions{}); }

  Kind kind() const;
  bool is_null() const { return kind() == Kind::null; }
  bool is_string() const { return kind() == Kind::string; }
  bool is_array() const { return kind() == Kind::array; }
  bool is_object() const { return kind() == Kind::object; }
  /// A number written without fraction and exponent that fits 64 signed bits: as_int() gives exactly it.
  bool is_integer() const { return std::holds_alternative<int64_t>(value_); }

  bool as_bool() const;
  /// An integer, or a float of integral value up to 2^53 (some configurations say 4096.0).
  int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const std::vector<Json>& items() const;      ///< of an array
  const std::vector<Member>& members() const;  ///< of an object, in the order of the text

  /// The member's value, or null if this object has no such key. Linear in the number of members.
  const Json* find(std::string_view key) const;
  const Json& at(std::string_view key) const;

  /// The member's value as a type; throws when it is absent, null, or of another kind.
  bool get_bool(std::string_view key) const;
  int64_t get_int(std::string_view key) const;
  double get_double(std::string_view key) const;
  const std::string& get_string(std::string_view key) const;

  /// The same with a default for an absent or null member; still throws when it is of another kind.
  bool get_bool(std::string_view key, bool fallback) const;
  int64_t get_int(std::string_view key, int64_t fallback) const;
  double get_double(std::string_view key, double fallback) const;
  std::string get_string(std::string_view key, std::string_view fallback) const;

  /// A copy of this object that also has those members of `defaults`, an object, whose keys this one lacks.
  Json with_defaults(const Json& defaults) const;

  /// A short name of the value for error texts: `true`, `12`, `the string "abc"`, `an array of 3`.
  std::string describe() const;

 private:
  friend class JsonParser;
  /// Its own functions are defined where Member is complete: some compilers would need it complete here.
  struct Object {
    Object();
    ~Object();
    Object(const Object& other);
    Object(Object&& other) noexcept;
    Object& operator=(const Object& other);
    Object& operator=(Object&& other) noexcept;

    std::vector<Member> members;
    std::string path;  ///< from the root, empty at the root
  };

  [[noreturn]] void refuse(const char* expected) const;
  const Object& object() const;
  std::string path_of(std::string_view key) const;
  template <class Get>
  decltype(auto) get(std::string_view key, const Get& as) const;

  std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<Json>, Object> value_;
};

struct Json::Member {
  std::string key;
  Json value;
};

}  // namespace pagoda

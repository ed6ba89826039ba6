// Access to a JSON tree; the parser is in json_parser.cc.
#include "core/json.h"

#include <cmath>

#include "core/check.h"

namespace pagoda {
namespace {

constexpr size_t kShownBytes = 60;  // of a string in an error text

/// "8.0", not "8", so that an error text shows why it is no integer.
std::string float_text(double value) {
  const std::string text = str(value);
  return text.find_first_not_of("-0123456789") == std::string::npos ? text + ".0" : text;
}

}  // namespace

Json::Object::Object() = default;
Json::Object::~Object() = default;
Json::Object::Object(const Object& other) = default;
Json::Object::Object(Object&& other) noexcept = default;
Json::Object& Json::Object::operator=(const Object& other) = default;
Json::Object& Json::Object::operator=(Object&& other) noexcept = default;

Json::Kind Json::kind() const {
  switch (value_.index()) {
    case 1:
      return Kind::boolean;
    case 2:
    case 3:
      return Kind::number;
    case 4:
      return Kind::string;
    case 5:
      return Kind::array;
    case 6:
      return Kind::object;
    default:
      return Kind::null;
  }
}

std::string Json::describe() const {
  switch (kind()) {
    case Kind::null:
      return "null";
    case Kind::boolean:
      return std::get<bool>(value_) ? "true" : "false";
    case Kind::number:
      return is_integer() ? str(std::get<int64_t>(value_)) : float_text(std::get<double>(value_));
    case Kind::string: {
      const std::string& text = std::get<std::string>(value_);
      return str("the string \"", text.substr(0, kShownBytes), text.size() > kShownBytes ? "...\"" : "\"");
    }
    case Kind::array:
      return str("an array of ", items().size());
    case Kind::object:
      return str("an object of ", members().size());
  }
  return "?";
}

void Json::refuse(const char* expected) const { throw InvalidArgument(str("expected ", expected, ", got ", describe())); }

bool Json::as_bool() const {
  if (kind() != Kind::boolean) refuse("true or false");
  return std::get<bool>(value_);
}

int64_t Json::as_int() const {
  if (is_integer()) return std::get<int64_t>(value_);
  constexpr double kExact = 0x1p53;
  const double* number = std::get_if<double>(&value_);
  if (!number || std::trunc(*number) != *number || std::abs(*number) > kExact) refuse("an integer of 64 bits");
  return static_cast<int64_t>(*number);
}

double Json::as_double() const {
  if (kind() != Kind::number) refuse("a number");
  return is_integer() ? static_cast<double>(std::get<int64_t>(value_)) : std::get<double>(value_);
}

const std::string& Json::as_string() const {
  if (!is_string()) refuse("a string");
  return std::get<std::string>(value_);
}

const std::vector<Json>& Json::items() const {
  if (!is_array()) refuse("an array");
  return std::get<std::vector<Json>>(value_);
}

const Json::Object& Json::object() const {
  if (!is_object()) refuse("an object");
  return std::get<Object>(value_);
}

const std::vector<Json::Member>& Json::members() const { return object().members; }

const Json* Json::find(std::string_view key) const {
  for (const Member& member : members()) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

std::string Json::path_of(std::string_view key) const {
  const std::string& path = object().path;
  return path.empty() ? std::string(key) : str(path, ".", key);
}

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  if (!value) throw InvalidArgument(str(path_of(key), " is missing"));
  return *value;
}

Json Json::with_defaults(const Json& defaults) const {
  Object merged = object();
  for (const Member& member : defaults.object().members) {
    if (!find(member.key)) merged.members.push_back(member);
  }
  Json json;
  json.value_ = std::move(merged);
  return json;
}

/// Puts the key's path in front of what `as` complains about.
template <class Get>
decltype(auto) Json::get(std::string_view key, const Get& as) const {
  const Json& value = at(key);
  try {
    return as(value);
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(str(path_of(key), ": ", error.what()));
  }
}

bool Json::get_bool(std::string_view key) const {
  return get(key, [](const Json& value) { return value.as_bool(); });
}
int64_t Json::get_int(std::string_view key) const {
  return get(key, [](const Json& value) { return value.as_int(); });
}
double Json::get_double(std::string_view key) const {
  return get(key, [](const Json& value) { return value.as_double(); });
}
const std::string& Json::get_string(std::string_view key) const {
  return get(key, [](const Json& value) -> const std::string& { return value.as_string(); });
}

bool Json::get_bool(std::string_view key, bool fallback) const {
  const Json* value = find(key);
  return value && !value->is_null() ? get_bool(key) : fallback;
}
int64_t Json::get_int(std::string_view key, int64_t fallback) const {
  const Json* value = find(key);
  return value && !value->is_null() ? get_int(key) : fallback;
}
double Json::get_double(std::string_view key, double fallback) const {
  const Json* value = find(key);
  return value && !value->is_null() ? get_double(key) : fallback;
}
std::string Json::get_string(std::string_view key, std::string_view fallback) const {
  const Json* value = find(key);
  return value && !value->is_null() ? get_string(key) : std::string(fallback);
}

}  // namespace pagoda

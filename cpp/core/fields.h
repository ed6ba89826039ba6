// Declare-once rows for plain structs: one row gives a member its public name, allowed range and doc text.
// SamplingParams and EngineOptions list their rows; validation, Python bindings, YAML/JSON parsing, `--help` and the reference
// page are all made from them.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>

#include "core/check.h"

namespace pagoda {

/// Allowed values of a number. An open lower end is written with `open_min`.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;

  static constexpr Range any() { return {}; }
  static constexpr Range closed(double min, double max) { return {min, max, false}; }
  static constexpr Range left_open(double min, double max) { return {min, max, true}; }
  static constexpr Range at_least(double min) { return {min, std::numeric_limits<double>::infinity(), false}; }
  static constexpr Range above(double min) { return {min, std::numeric_limits<double>::infinity(), true}; }

  /// NaN is in no range; infinity only in a range with an infinite end and only for `any()`.
  bool contains(double value) const {
    if (std::isnan(value) || std::isinf(value)) return false;
    return (open_min ? value > min : value >= min) && value <= max;
  }

  /// "in [0, 2]", "in (0, 1]", ">= 1", "> 0".
  std::string to_string() const {
    if (std::isinf(max)) return std::isinf(min) ? std::string("finite") : str(open_min ? "> " : ">= ", min);
    return str("in ", open_min ? "(" : "[", min, ", ", max, "]");
  }
};

/// One row. `Value` is bool, int64_t, double, std::string, a struct with rows, std::optional or std::vector of such; the
/// default is the member's value in a default-constructed Owner.
template <class Owner, class Value>
struct Field {
  const char* name;
  Value Owner::* member;
  Range range;
  const char* doc;
};

template <class Owner, class Value>
constexpr Field<Owner, Value> field(const char* name, Value Owner::* member, Range range, const char* doc) {
  return {name, member, range, doc};
}
template <class Owner, class Value>
constexpr Field<Owner, Value> field(const char* name, Value Owner::* member, const char* doc) {
  return {name, member, Range{}, doc};
}

/// Calls `visit(row)` for every row of `Owner::fields()`.
template <class Owner, class Visit>
void for_each_field(Visit&& visit) {
  std::apply([&](const auto&... rows) { (visit(rows), ...); }, Owner::fields());
}

/// A struct that has rows of its own can be the value of a row.
template <class T>
concept HasFields = requires { T::fields(); };

template <class T>
struct is_optional : std::false_type {};
template <class T>
struct is_optional<std::optional<T>> : std::true_type {};

/// Throws InvalidArgument unless `value` lies in the row's range.
template <class Row, class Number>
void validate_range(const Row& row, Number value) {
  require(row.range.contains(static_cast<double>(value)), row.name, " must be ", row.range.to_string(), ", got ", value);
}

/// Checks every numeric member (and every set optional one) against its row's range. Throws InvalidArgument `top_p must be in
/// (0, 1], got 1.5`.
template <class Owner>
void validate_ranges(const Owner& owner) {
  for_each_field<Owner>([&](const auto& row) {
    const auto& value = owner.*row.member;
    using Value = std::decay_t<decltype(value)>;
    if constexpr (is_optional<Value>::value) {
      if constexpr (std::is_arithmetic_v<typename Value::value_type>) {
        if (value) validate_range(row, *value);
      }
    } else if constexpr (std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>) {
      validate_range(row, value);
    }
  });
}

}  // namespace pagoda

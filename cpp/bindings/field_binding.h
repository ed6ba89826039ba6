// Binds structs with field rows to Python: keyword construction, attributes, and the rows themselves as dictionaries.
// Python values are converted strictly: a bool is no number, a number is no string; errors name the field and what was given.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/fields.h"

namespace pagoda::bindings {

namespace py = pybind11;

/// repr() of a value, cut to 80 characters.
std::string shown(py::handle value);

/// Throws InvalidArgument "<name> <demand>, got <value>" unless `ok`. The value is shown only then: that takes
/// microseconds, and a prompt has thousands of values.
inline void require_value(bool ok, const char* name, const char* demand, py::handle value) {
  if (!ok) throw InvalidArgument(str(name, " ", demand, ", got ", shown(value)));
}

void from_python(const char* name, py::handle value, bool& out);
void from_python(const char* name, py::handle value, int64_t& out);
void from_python(const char* name, py::handle value, double& out);
void from_python(const char* name, py::handle value, std::string& out);
void from_python(const char* name, py::handle value, std::map<int64_t, double>& out);

template <HasFields Owner>
void from_python(const char* name, py::handle value, Owner& out);

template <class T>
void from_python(const char* name, py::handle value, std::optional<T>& out) {
  if (value.is_none()) {
    out.reset();
  } else {
    from_python(name, value, out.emplace());
  }
}

/// None is an empty list; a string stands for a list of one.
template <class T>
void from_python(const char* name, py::handle value, std::vector<T>& out) {
  out.clear();
  if (value.is_none()) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (PyUnicode_Check(value.ptr())) return from_python(name, value, out.emplace_back());
  }
  require_value(PyList_Check(value.ptr()) || PyTuple_Check(value.ptr()), name, "must be a list", value);
  for (py::handle item : py::reinterpret_borrow<py::sequence>(value)) {
    T element;
    from_python(name, item, element);
    out.push_back(std::move(element));
  }
}

/// A dictionary of the struct's own rows; what it leaves out has its default.
template <HasFields Owner>
void from_python(const char* name, py::handle value, Owner& out) {
  require_value(PyDict_Check(value.ptr()), name, "must be a map", value);
  out = {};
  for (const auto& [key, entry] : py::reinterpret_borrow<py::dict>(value)) {
    bool known = false;
    for_each_field<Owner>([&](const auto& row) {
      if (!py::str(row.name).equal(key)) return;
      known = true;
      from_python(str(name, ".", row.name).c_str(), entry, out.*row.member);
    });
    if (!known) throw InvalidArgument(str(name, " has no parameter ", shown(key)));
  }
}

inline py::object to_python(bool value) { return py::bool_(value); }
inline py::object to_python(int64_t value) { return py::int_(value); }
inline py::object to_python(double value) { return py::float_(value); }
inline py::object to_python(const std::string& value) { return py::str(value); }
py::object to_python(const std::map<int64_t, double>& value);
template <HasFields Owner>
py::object to_python(const Owner& owner);
template <class T>
py::object to_python(const std::optional<T>& value) {
  return value ? to_python(*value) : py::none();
}
template <class T>
py::object to_python(const std::vector<T>& value) {
  py::list list;
  for (const T& element : value) list.append(to_python(element));
  return list;
}

template <HasFields Owner>
py::object to_python(const Owner& owner) {
  py::dict values;
  for_each_field<Owner>([&](const auto& row) { values[row.name] = to_python(owner.*row.member); });
  return values;
}

inline const char* type_name(const bool*) { return "bool"; }
inline const char* type_name(const int64_t*) { return "int"; }
inline const char* type_name(const double*) { return "float"; }
inline const char* type_name(const std::string*) { return "str"; }
inline const char* type_name(const std::optional<int64_t>*) { return "int?"; }
inline const char* type_name(const std::optional<double>*) { return "float?"; }
inline const char* type_name(const std::vector<int64_t>*) { return "list[int]"; }
inline const char* type_name(const std::vector<std::string>*) { return "list[str]"; }
inline const char* type_name(const std::map<int64_t, double>*) { return "dict[int,float]"; }
template <HasFields Owner>
const char* type_name(const std::optional<Owner>*) {
  return "map?";
}

template <class Owner>
py::list field_rows();

/// The rows of a value that has some: those of a struct, or of what an optional may hold.
template <class Value>
py::list rows_of(const Value&) {
  return py::list();
}
template <HasFields Owner>
py::list rows_of(const std::optional<Owner>&) {
  return field_rows<Owner>();
}

/// {"name", "type", "default", "min", "max", "open_min", "doc"} of every row, and "fields" with the rows of a map's values.
template <class Owner>
py::list field_rows() {
  py::list rows;
  const Owner defaults;
  for_each_field<Owner>([&](const auto& row) {
    py::dict entry;
    const auto bound = [](double limit) -> py::object {
      return std::isinf(limit) ? py::none() : py::object(py::float_(limit));
    };
    entry["name"] = row.name;
    entry["type"] = type_name(&(defaults.*row.member));
    entry["default"] = to_python(defaults.*row.member);
    entry["min"] = bound(row.range.min);
    entry["max"] = bound(row.range.max);
    entry["open_min"] = row.range.open_min;
    entry["doc"] = row.doc;
    entry["fields"] = rows_of(defaults.*row.member);
    rows.append(entry);
  });
  return rows;
}

/// Sets the members that `values` names. Throws InvalidArgument for a name without a row.
template <class Owner>
void assign_fields(const char* type, Owner& owner, const py::dict& values) {
  for (const auto& [key, value] : values) {
    const auto name = key.template cast<std::string>();
    bool known = false;
    for_each_field<Owner>([&](const auto& row) {
      if (name != row.name) return;
      known = true;
      from_python(row.name, value, owner.*row.member);
    });
    require(known, type, " has no parameter '", name, "'");
  }
  owner.validate();
}

/// All members by name.
template <class Owner>
py::dict to_dict(const Owner& owner) {
  return to_python<Owner>(owner);
}

/// An Owner that remembers which of its members were given by name; the others may take a model's own defaults.
template <class Owner>
struct Given : Owner {
  std::set<std::string> names;
};

template <class Owner>
void assign_given(const char* type, Given<Owner>& owner, const py::dict& values) {
  assign_fields<Owner>(type, owner, values);
  for (const auto& entry : values) owner.names.insert(entry.first.template cast<std::string>());
}

/// `Name(field=value, ...)` with the values that were given.
template <class Owner>
std::string repr(const char* name, const Given<Owner>& owner) {
  std::string text = std::string(name) + "(";
  for_each_field<Owner>([&](const auto& row) {
    if (!owner.names.count(row.name)) return;
    if (text.back() != '(') text += ", ";
    text += std::string(row.name) + "=" + shown(to_python(owner.*row.member));
  });
  return text + ")";
}

/// The class `name` with keyword construction, read-only attributes, given, clone(**changes), to_dict(), == and repr.
template <class Owner>
void bind_fields(py::module_& module, const char* name, const char* doc) {
  using Bound = Given<Owner>;
  py::class_<Bound> type(module, name, doc);
  type.def(py::init([name](const py::kwargs& values) {
    Bound owner;
    assign_given(name, owner, values);
    return owner;
  }));
  for_each_field<Owner>([&](const auto& row) {
    type.def_property_readonly(
        row.name, [member = row.member](const Bound& owner) { return to_python(owner.*member); }, row.doc);
  });
  type.def_property_readonly(
      "given",
      [](const Bound& owner) {
        py::set names;
        for (const std::string& given : owner.names) names.add(given);
        return names;
      },
      "Names of the values that were given; the others have their defaults.");
  type.def(
      "clone",
      [name](const Bound& owner, const py::kwargs& changes) {
        Bound copy = owner;
        assign_given(name, copy, changes);
        return copy;
      },
      "A validated copy with these changes.");
  type.def("to_dict", [](const Bound& owner) { return to_dict<Owner>(owner); }, "All values by name.");
  type.def("__eq__", [](const Bound& a, const Bound& b) { return to_dict<Owner>(a).equal(to_dict<Owner>(b)); });
  type.def("__repr__", [name](const Bound& owner) { return repr<Owner>(name, owner); });
}

}  // namespace pagoda::bindings

// Strict conversions between Python values and field types.
#include "bindings/field_binding.h"

namespace pagoda::bindings {

std::string shown(py::handle value) {
  constexpr size_t kMaxShown = 80;
  // Only short or plain values are worth a repr; a huge one would cost more than the error is worth.
  if (PyLong_Check(value.ptr()) && _PyLong_NumBits(value.ptr()) > 256) return "an integer of over 256 bits";
  std::string text =
      py::cast<std::string>(py::str(py::repr(value)).attr("encode")("utf-8", "backslashreplace").attr("decode")("utf-8"));
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

void from_python(const char* name, py::handle value, bool& out) {
  require_value(PyBool_Check(value.ptr()), name, "must be true or false", value);
  out = value.ptr() == Py_True;
}

void from_python(const char* name, py::handle value, int64_t& out) {
  require_value(PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr()), name, "must be an integer", value);
  int overflow = 0;
  out = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  require_value(overflow == 0, name, "must be in [-2^63, 2^63 - 1]", value);
}

void from_python(const char* name, py::handle value, double& out) {
  const bool is_number = PyFloat_Check(value.ptr()) || (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr()));
  require_value(is_number, name, "must be a number", value);
  out = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw InvalidArgument(str(name, " must be a finite number, got ", shown(value)));
  }
}

void from_python(const char* name, py::handle value, std::string& out) {
  require_value(PyUnicode_Check(value.ptr()), name, "must be a string", value);
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (!text) {
    PyErr_Clear();
    throw InvalidArgument(str(name, " must be text that UTF-8 can encode, got ", shown(value)));
  }
  out.assign(text, static_cast<size_t>(size));
}

void from_python(const char* name, py::handle value, std::map<int64_t, double>& out) {
  out.clear();
  if (value.is_none()) return;
  require_value(PyDict_Check(value.ptr()), name, "must map token ids to numbers", value);
  for (const auto& [key, entry] : py::reinterpret_borrow<py::dict>(value)) {
    int64_t token = 0;
    from_python(name, key, token);
    from_python(name, entry, out[token]);
  }
}

py::object to_python(const std::map<int64_t, double>& value) {
  py::dict dict;
  for (const auto& [key, entry] : value) dict[py::int_(key)] = entry;
  return dict;
}

}  // namespace pagoda::bindings

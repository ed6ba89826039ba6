// What Python needs of files and of the machine without an engine: GGUF metadata, the CPU's facts.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "backend/backend.h"
#include "bindings/bindings.h"
#include "engine/options.h"
#include "io/gguf.h"

namespace pagoda::bindings {
namespace {

namespace py = pybind11;

/// Text as the file has it; bytes that are not UTF-8 become replacement characters.
py::object text(std::string_view value) {
  PyObject* decoded = PyUnicode_DecodeUTF8(value.data(), static_cast<Py_ssize_t>(value.size()), "replace");
  if (!decoded) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

py::object array(const GgufArray& values) {
  py::list list(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    switch (values.type()) {
      case GgufType::string:
        list[i] = text(values.string_at(i));
        break;
      case GgufType::boolean:
        list[i] = values.bool_at(i);
        break;
      case GgufType::f32:
      case GgufType::f64:
        list[i] = values.double_at(i);
        break;
      default:
        list[i] = values.int_at(i);
    }
  }
  return list;
}

py::object held(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> py::object {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::string_view>) {
          return text(held);
        } else if constexpr (std::is_same_v<Held, GgufArray>) {
          return array(held);
        } else {
          return py::cast(held);
        }
      },
      value.held());
}

}  // namespace

void bind_files(py::module_& module) {
  module.def(
      "gguf_metadata",
      [](const std::string& path) {
        const GgufFile file(path);
        py::dict values;
        for (const GgufEntry& entry : file.metadata()) values[text(entry.key)] = held(entry.value);
        return values;
      },
      py::arg("path"), "All metadata of a GGUF file by key.");
  module.def(
      "cpu_info",
      [](const std::string& isa, int num_threads) {
        const DeviceInfo info = cpu_device_info({num_threads, isa});
        py::dict values;
        values["name"] = info.name;
        values["isa"] = info.isa;
        values["num_threads"] = info.num_threads;
        values["total_bytes"] = info.total_bytes;
        values["available_bytes"] = info.available_bytes;
        return values;
      },
      py::arg("isa") = "auto", py::arg("num_threads") = 0, "What the CPU backend would use.");
  module.def("cuda_built", &cuda_built, "Whether this build has CUDA kernels.");
}

}  // namespace pagoda::bindings

// What Python needs of files and of the machine without an engine: GGUF metadata, weights decoded and encoded, the CPU's facts.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_library.h"
#include "bindings/bindings.h"
#include "core/check.h"
#include "core/weight_format.h"
#include "engine/options.h"
#include "io/dequantise.h"
#include "io/gguf.h"
#include "io/quantise.h"

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

WeightFormat weight_format(const std::string& name) {
  std::string known;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<WeightFormat>(i);
    if (name == weight_format_info(format).name) return format;
    known += str(i ? ", " : "", weight_format_info(format).name);
  }
  throw InvalidArgument(str("weight format must be one of ", known, ", got '", name, "'"));
}

/// The bytes behind any object with a contiguous buffer. The view keeps them alive and in place.
struct Bytes {
  explicit Bytes(const py::object& object) {
    if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0) throw py::error_already_set();
  }
  ~Bytes() { PyBuffer_Release(&view); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  const std::byte* data() const { return static_cast<const std::byte*>(view.buf); }
  size_t size() const { return static_cast<size_t>(view.len); }

  Py_buffer view{};
};

/// A new bytes object and the memory to fill it.
std::pair<py::bytes, std::byte*> new_bytes(size_t size) {
  PyObject* object = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
  if (!object) throw py::error_already_set();
  return {py::reinterpret_steal<py::bytes>(object), reinterpret_cast<std::byte*>(PyBytes_AsString(object))};
}

/// The number of rows of `row_bytes` that `size` bytes are.
size_t count_rows(WeightFormat format, int64_t cols, size_t size, size_t row_bytes) {
  const WeightFormatInfo info = weight_format_info(format);
  require(cols >= 1 && cols % info.block_values == 0 && cols <= int64_t{1} << 40, "cols must be a multiple of ",
          info.block_values, " for format ", info.name, " and in [1, 2^40], got ", cols);
  require(size % row_bytes == 0, "the data must be rows of ", row_bytes, " bytes (", cols, " values), got ", size, " bytes");
  return size / row_bytes;
}

py::bytes dequantise(const std::string& format_name, const py::object& data, int64_t cols) {
  const WeightFormat format = weight_format(format_name);
  const Bytes stored(data);
  const size_t row_bytes = weight_row_bytes(format, cols);
  const size_t rows = count_rows(format, cols, stored.size(), row_bytes);
  const auto cols_of_row = static_cast<size_t>(cols);
  auto [result, out] = new_bytes(rows * cols_of_row * sizeof(float));
  {
    const py::gil_scoped_release no_gil;
    for (size_t row = 0; row < rows; ++row) {
      dequantise_row(format, stored.data() + row * row_bytes, cols, reinterpret_cast<float*>(out) + row * cols_of_row);
    }
  }
  return std::move(result);
}

py::bytes quantise(const std::string& format_name, const py::object& values, int64_t cols) {
  const WeightFormat format = weight_format(format_name);
  require(can_quantise(format), "weights cannot be converted to ", format_name, ", only to ", quantisable_formats());
  const Bytes floats(values);
  const size_t value_bytes = static_cast<size_t>(cols) * sizeof(float);
  const size_t rows = count_rows(format, cols, floats.size(), value_bytes);
  const size_t row_bytes = weight_row_bytes(format, cols);
  auto [result, out] = new_bytes(rows * row_bytes);
  std::vector<float> row_values(rows ? static_cast<size_t>(cols) : 0);  // the buffer's may be aligned to nothing
  {
    const py::gil_scoped_release no_gil;
    for (size_t row = 0; row < rows; ++row) {
      std::memcpy(row_values.data(), floats.data() + row * value_bytes, value_bytes);
      quantise_row(format, row_values.data(), cols, out + row * row_bytes);
    }
  }
  return std::move(result);
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
      "dequantise", &dequantise, py::arg("format"), py::arg("data"), py::arg("cols"),
      "Rows of `cols` values stored in a weight format, as the bytes of f32 values. InvalidArgument for an unknown format or "
      "data that is no whole number of rows.");
  module.def(
      "quantise", &quantise, py::arg("format"), py::arg("values"), py::arg("cols"),
      "The reverse: rows of f32 values to rows in a weight format. InvalidArgument also for a format that cannot be written; "
      "a block with an infinity or a NaN becomes NaNs.");
  module.def(
      "cpu_info",
      [](const std::string& isa, int num_threads) {
        const DeviceInfo info = cpu_device_info({num_threads, isa, "auto"});
        py::dict values;
        values["name"] = info.name;
        values["isa"] = info.isa;
        values["num_threads"] = info.num_threads;
        values["total_bytes"] = info.total_bytes;
        values["available_bytes"] = info.available_bytes;
        return values;
      },
      py::arg("isa") = "auto", py::arg("num_threads") = 0, "What the CPU backend would use.");
  module.def(
      "cuda_info",
      [] {
        py::dict values;
        values["built"] = cuda_build() == CudaBuild::hardware;
        values["unavailable"] = cuda_unavailable();
        return values;
      },
      "Whether this build has CUDA kernels, and why they cannot be used here (empty if they can).");
  module.def(
      "find_cuda_library", [](const std::vector<std::string>& folders) { return find_cuda_library(folders); },
      py::arg("folders"), "Path and version of cuBLASLt in words. DeviceError if it is absent or needed by nothing here.");
}

}  // namespace pagoda::bindings

// Checkpoints written in another form: GGUF files and directories of safetensors. Used by pagoda/conversion.py.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "core/thread_pool.h"
#include "core/usable_cores.h"
#include "io/gguf_writer.h"
#include "io/memory_weights.h"
#include "io/open_weights.h"
#include "model/directory_export.h"
#include "model/gguf_export.h"
#include "model/loader.h"

namespace pagoda::bindings {
namespace {

namespace py = pybind11;

/// name, type, shape, address, bytes.
using MemoryRow = std::tuple<std::string, std::string, std::vector<int64_t>, uintptr_t, size_t>;
using MemoryRows = std::optional<std::vector<MemoryRow>>;
/// key, type, value.
using MetadataRow = std::tuple<std::string, std::string, py::object>;
using Progress = std::function<void(size_t, size_t)>;

std::unique_ptr<WeightSource> memory_source(const std::string& where, const std::vector<MemoryRow>& rows) {
  std::vector<MemoryTensor> tensors;
  for (const auto& [name, type, shape, address, bytes] : rows) {
    tensors.push_back({name, type, shape, reinterpret_cast<const std::byte*>(address), bytes});
  }
  return make_memory_weights(where, tensors);
}

Checkpoint open(const std::string& path, const MemoryRows& rows) {
  return rows ? open_checkpoint(path, memory_source(path, *rows)) : open_checkpoint(path);
}

GgufItem item(const std::string& type, const py::object& value) {
  if (type == "bool") return value.cast<bool>();
  if (type == "u32") return value.cast<uint32_t>();
  if (type == "i32") return value.cast<int32_t>();
  if (type == "f32") return value.cast<float>();
  if (type == "string") return value.cast<std::string>();
  if (type == "[u8]") return value.cast<std::vector<uint8_t>>();
  if (type == "[i32]") return value.cast<std::vector<int32_t>>();
  if (type == "[f32]") return value.cast<std::vector<float>>();
  if (type == "[string]") return value.cast<std::vector<std::string>>();
  throw InvalidArgument("metadata type '" + type + "' is not known");
}

py::dict write_gguf(const std::string& path, const MemoryRows& tensors, const std::string& weight_format,
                    const std::vector<MetadataRow>& metadata, const std::string& out, const Progress& progress) {
  using namespace py::literals;
  GgufMetadata values;
  for (const auto& [key, type, value] : metadata) values.set(key, item(type, value));
  GgufExport done;
  {
    const py::gil_scoped_release no_gil;
    const std::optional<WeightFormat> format = parse_gguf_format(weight_format);
    Checkpoint checkpoint = open(path, tensors);
    ThreadPool pool(usable_cores());
    done = export_gguf(checkpoint, format, std::move(values), out, pool, progress);  // a Python callable takes the GIL itself
  }
  return py::dict("bytes"_a = done.bytes, "num_tensors"_a = done.num_tensors, "main_format"_a = done.main_format,
                  "notes"_a = done.notes);
}

py::dict write_directory(const std::string& path, const MemoryRows& tensors, const std::string& weight_format,
                         bool is_quantised, const std::string& out, size_t max_file_bytes, const Progress& progress) {
  using namespace py::literals;
  DirectoryExport done;
  {
    const py::gil_scoped_release no_gil;
    const std::optional<WeightFormat> format = parse_directory_format(weight_format);
    ThreadPool pool(usable_cores());
    if (format && (is_quantised || pagoda::is_quantised(*format))) {
      const Checkpoint checkpoint = open(path, tensors);
      done = export_directory(*checkpoint.source, &checkpoint, format, out, max_file_bytes, pool, progress);
    } else {
      const std::unique_ptr<WeightSource> source = tensors ? memory_source(path, *tensors) : open_weights(path);
      done = export_directory(*source, nullptr, format, out, max_file_bytes, pool, progress);
    }
  }
  return py::dict("files"_a = done.files.file_of, "num_files"_a = done.files.num_files, "bytes"_a = done.files.total_bytes,
                  "plain_modules"_a = done.plain_modules);
}

}  // namespace

void bind_convert(py::module_& module) {
  module.def("write_gguf", &write_gguf, py::arg("path"), py::arg("tensors"), py::arg("weight_format"), py::arg("metadata"),
             py::arg("out"), py::arg("progress"),
             "Writes the checkpoint at `path` as the GGUF file `out`, which must not exist. `tensors`: None, or (name, type, "
             "shape, address, bytes) of weights that take the place of the directory's own files. `metadata`: (key, type, "
             "value) beside what the model's configuration gives. `progress(done, total)` hears of bytes.");
  module.def("write_directory", &write_directory, py::arg("path"), py::arg("tensors"), py::arg("weight_format"),
             py::arg("is_quantised"), py::arg("out"), py::arg("max_file_bytes"), py::arg("progress"),
             "Writes the weights at `path` (or `tensors`) as safetensors files into the directory `out`. `is_quantised`: "
             "whether config.json has a quantization_config.");
}

}  // namespace pagoda::bindings

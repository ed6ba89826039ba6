// Checkpoints seen from Python without an engine: what they hold, and whether their numbers are sound.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "core/thread_pool.h"
#include "core/usable_cores.h"
#include "io/open_weights.h"
#include "io/weight_scan.h"
#include "model/inspect.h"

namespace pagoda::bindings {
namespace {

namespace py = pybind11;

py::dict tensor_row(const TensorListing& tensor) {
  using namespace py::literals;
  return py::dict("name"_a = tensor.name, "type"_a = tensor.type, "shape"_a = tensor.shape, "bytes"_a = tensor.bytes);
}

py::dict matrix_row(const MatrixListing& matrix) {
  using namespace py::literals;
  return py::dict("layer"_a = matrix.layer < 0 ? py::object(py::none()) : py::int_(matrix.layer), "name"_a = matrix.name,
                  "rows"_a = matrix.rows, "cols"_a = matrix.cols, "formats"_a = matrix.formats, "bytes"_a = matrix.bytes);
}

template <class Row, class Make>
py::list rows(const std::vector<Row>& items, const Make& make) {
  py::list list;
  for (const Row& item : items) list.append(make(item));
  return list;
}

py::dict inspect(const std::string& path, const std::string& weight_format) {
  using namespace py::literals;
  ModelListing listing;
  {
    const py::gil_scoped_release no_gil;
    listing = inspect_model(path, weight_format, cpu_traits());
  }
  py::dict result("architecture"_a = listing.architecture, "refusal"_a = listing.refusal,
                  "quantisation"_a = listing.quantisation, "warnings"_a = listing.warnings,
                  "tensors"_a = rows(listing.tensors, tensor_row));
  if (!listing.refusal.empty()) return result;
  py::dict facts;
  for (const auto& [name, text] : listing.facts) facts[py::str(name)] = text;
  result["facts"] = facts;
  result["matrices"] = rows(listing.matrices, matrix_row);
  result["num_parameters"] = listing.num_parameters;
  result["num_active_parameters"] = listing.num_active_parameters;
  result["packed_bytes"] = listing.packed_bytes;
  result["max_context"] = listing.max_context;
  return result;
}

py::dict scan(const std::string& path, int num_threads, const std::function<void(size_t, size_t)>& progress) {
  using namespace py::literals;
  WeightScan found;
  {
    const py::gil_scoped_release no_gil;
    ThreadPool pool(num_threads ? num_threads : usable_cores());
    const std::unique_ptr<WeightSource> source = open_weights(path);
    found = scan_weights(*source, pool, progress);  // a Python callable takes the GIL itself
  }
  const auto fault_row = [](const WeightFault& fault) {
    return py::dict("tensor"_a = fault.tensor, "num_nan"_a = fault.num_nan, "num_inf"_a = fault.num_inf,
                    "first"_a = fault.first, "all_zero"_a = fault.all_zero);
  };
  return py::dict("faults"_a = rows(found.faults, fault_row), "num_tensors"_a = found.num_tensors,
                  "num_skipped"_a = found.num_skipped, "bytes"_a = found.bytes);
}

}  // namespace

void bind_models(py::module_& module) {
  module.def(
      "inspect_model", &inspect, py::arg("path"), py::arg("weight_format") = "auto",
      "What the checkpoint at `path` holds and what the decoder makes of it: architecture, refusal (why it cannot be run, or "
      "empty), tensors, and if it can be run facts, matrices, num_parameters, packed_bytes, ...");
  module.def("scan_weights", &scan, py::arg("path"), py::arg("num_threads") = 0, py::arg("progress") = py::none(),
             "Reads all weights at `path` and lists tensors with NaN, infinity or nothing but zeros. `progress(done, total)` "
             "hears of bytes.");
}

}  // namespace pagoda::bindings

// The extension module pagoda._core: error types, parameter rows, engine. Imported by pagoda/{config,client,llm}.py only.
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/field_binding.h"
#include "core/check.h"
#include "engine/options.h"
#include "sampling/params.h"

namespace py = pybind11;

namespace {

/// pagoda._core.Overloaded, with the attribute retry_after_s.
void register_overloaded(py::module_& module) {
  static py::exception<pagoda::Overloaded> overloaded(module, "Overloaded", PyExc_RuntimeError);
  overloaded.attr("retry_after_s") = 1.0;
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const pagoda::Overloaded& error) {
      const py::object raised = static_cast<const py::object&>(overloaded)(error.what());
      raised.attr("retry_after_s") = error.retry_after;
      PyErr_SetObject(overloaded.ptr(), raised.ptr());
    }
  });
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  using namespace pagoda;
  module.doc() = "Pagoda's C++ engine.";
  py::register_exception<InvalidArgument>(module, "InvalidArgument", PyExc_ValueError);
  register_overloaded(module);
  py::register_exception<DeviceError>(module, "DeviceError", PyExc_RuntimeError);
  py::register_exception<InternalError>(module, "InternalError", PyExc_RuntimeError);
  bindings::bind_fields<SamplingParams>(module, "SamplingParams",
                                        "What to generate, how to choose tokens, when to stop. Keywords only.");
  bindings::bind_fields<EngineOptions>(module, "EngineOptions", "What can be chosen about an engine. Keywords only.");
  module.attr("SAMPLING_FIELDS") = bindings::field_rows<SamplingParams>();
  module.attr("ENGINE_FIELDS") = bindings::field_rows<EngineOptions>();
  bindings::bind_files(module);
  bindings::bind_models(module);
  bindings::bind_convert(module);
  bindings::bind_engine(module);
}

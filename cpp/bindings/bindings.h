// The parts of the extension module, bound by module.cc.
#pragma once

#include <pybind11/pybind11.h>

namespace pagoda::bindings {

/// Engine, Output, TokenLogprobs, plan_memory, STATS_FIELDS.
void bind_engine(pybind11::module_& module);
/// gguf_metadata, device facts.
void bind_files(pybind11::module_& module);
/// write_gguf, write_directory.
void bind_convert(pybind11::module_& module);
/// inspect_model, scan_weights.
void bind_models(pybind11::module_& module);

}  // namespace pagoda::bindings

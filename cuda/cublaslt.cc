// Finds the functions by their names.
#include "cuda/cublaslt.h"

#include "core/check.h"
#include "cuda/dynamic_library.h"

namespace pagoda::cuda {
namespace {

constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

template <class Function>
void bind(const DynamicLibrary& library, Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(library.find(name));
  if (!function) {
    throw DeviceError(str(library.path(), " lacks the function ", name,
                          "; install another one with `pip install nvidia-cublas` or the CUDA toolkit"));
  }
}

}  // namespace

CublasLt open_cublaslt(std::span<const std::string> folders) {
  std::string failures;
  const std::optional<DynamicLibrary> found = DynamicLibrary::open(kNames, folders, failures);
  if (!found) throw DeviceError(cublaslt_absence(failures));
  CublasLt table{};
  table.path = found->path();
  bind(*found, table.create, "cublasLtCreate");
  bind(*found, table.destroy, "cublasLtDestroy");
  bind(*found, table.version, "cublasLtGetVersion");
  bind(*found, table.status_name, "cublasLtGetStatusName");
  bind(*found, table.desc_create, "cublasLtMatmulDescCreate");
  bind(*found, table.desc_destroy, "cublasLtMatmulDescDestroy");
  bind(*found, table.desc_set, "cublasLtMatmulDescSetAttribute");
  bind(*found, table.layout_create, "cublasLtMatrixLayoutCreate");
  bind(*found, table.layout_destroy, "cublasLtMatrixLayoutDestroy");
  bind(*found, table.layout_set, "cublasLtMatrixLayoutSetAttribute");
  bind(*found, table.preference_create, "cublasLtMatmulPreferenceCreate");
  bind(*found, table.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  bind(*found, table.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  bind(*found, table.heuristics, "cublasLtMatmulAlgoGetHeuristic");
  bind(*found, table.check, "cublasLtMatmulAlgoCheck");
  bind(*found, table.matmul, "cublasLtMatmul");
  return table;
}

}  // namespace pagoda::cuda

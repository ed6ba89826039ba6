// NVIDIA's cuBLASLt as far as Pagoda calls it, declared here: neither its headers nor the library are needed to build, it is
// opened at run time. Types, numbers and signatures are those of cublasLt.h, the same in CUDA 12 and 13; only the names follow
// this tree. Called by LtMatmul.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/check.h"

namespace pagoda::cuda {
namespace lt {

using Status = int;
constexpr Status kSuccess = 0;
constexpr Status kInvalidValue = 7;
constexpr Status kNotSupported = 15;

struct Context;           // cublasLtHandle_t points to it
struct MatmulDesc;        // cublasLtMatmulDesc_t
struct MatrixLayout;      // cublasLtMatrixLayout_t
struct MatmulPreference;  // cublasLtMatmulPreference_t

/// cublasLtMatmulAlgo_t: how a product is computed. May be kept as bytes for the same version of the library.
struct Algorithm {
  uint64_t data[8];
  bool operator==(const Algorithm&) const = default;
};

/// cublasLtMatmulHeuristicResult_t
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96 && offsetof(HeuristicResult, state) == 72);

enum class DataType : int32_t { f32 = 0, bf16 = 14, e4m3 = 28 };        // cudaDataType
enum class ComputeType : int32_t { f32 = 68 };                          // cublasComputeType_t
enum class Operation : int32_t { none = 0, transpose = 1 };             // cublasOperation_t
enum class ScaleMode : int32_t { one_number = 0, vector_of_rows = 3 };  // cublasLtMatmulMatrixScale_t, 3: OUTER_VEC_32F
enum class DescAttribute : int32_t {                                    // cublasLtMatmulDescAttributes_t
  transa = 3,                                                           ///< Operation
  transb = 4,                                                           ///< Operation
  a_scale_pointer = 17,                                                 ///< to device memory, as is the next
  b_scale_pointer = 18,
  a_scale_mode = 31,  ///< ScaleMode; libraries of CUDA 12.9 and newer know the vectors
  b_scale_mode = 32,
};
enum class LayoutAttribute : int32_t {  // cublasLtMatrixLayoutAttribute_t
  type = 0,                             ///< uint32
  rows = 2,                             ///< uint64
  cols = 3,                             ///< uint64
  leading_dimension = 4,                ///< int64
};
enum class PreferenceAttribute : int32_t {  // cublasLtMatmulPreferenceAttributes_t
  max_workspace_bytes = 1,                  ///< uint64
  reduction_scheme_mask = 3,                ///< uint32
  min_alignment_a_bytes = 5,                ///< uint32, as are the next three
  min_alignment_b_bytes = 6,
  min_alignment_c_bytes = 7,
  min_alignment_d_bytes = 8,
};
/// cublasLtReductionScheme_t: how the parts of a sum that was split are added. The others round them to the output's type.
constexpr uint32_t kReductionNone = 0;
constexpr uint32_t kReductionComputeType = 2;

}  // namespace lt

/// The library's functions; `path` says where it was found. Matrices are column-major: D = alpha * op(A) * op(B) + beta * C,
/// with vectors of scales D[i, j] = alpha * a_scale[i] * b_scale[j] * ...
struct CublasLt {
  std::string path;

  lt::Status (*create)(lt::Context** context);
  lt::Status (*destroy)(lt::Context* context);
  size_t (*version)();  ///< 130101 for 13.1.1
  const char* (*status_name)(lt::Status status);
  lt::Status (*desc_create)(lt::MatmulDesc** desc, lt::ComputeType compute, lt::DataType scale);
  lt::Status (*desc_destroy)(lt::MatmulDesc* desc);
  lt::Status (*desc_set)(lt::MatmulDesc* desc, lt::DescAttribute attribute, const void* value, size_t bytes);
  lt::Status (*layout_create)(lt::MatrixLayout** layout, lt::DataType type, uint64_t rows, uint64_t cols, int64_t stride);
  lt::Status (*layout_destroy)(lt::MatrixLayout* layout);
  lt::Status (*layout_set)(lt::MatrixLayout* layout, lt::LayoutAttribute attribute, const void* value, size_t bytes);
  lt::Status (*preference_create)(lt::MatmulPreference** preference);
  lt::Status (*preference_destroy)(lt::MatmulPreference* preference);
  lt::Status (*preference_set)(lt::MatmulPreference* preference, lt::PreferenceAttribute attribute, const void* value,
                               size_t bytes);
  lt::Status (*heuristics)(lt::Context* context, lt::MatmulDesc* desc, lt::MatrixLayout* a, lt::MatrixLayout* b,
                           lt::MatrixLayout* c, lt::MatrixLayout* d, lt::MatmulPreference* preference, int max_results,
                           lt::HeuristicResult* results, int* num_results);
  lt::Status (*check)(lt::Context* context, lt::MatmulDesc* desc, lt::MatrixLayout* a, lt::MatrixLayout* b, lt::MatrixLayout* c,
                      lt::MatrixLayout* d, const lt::Algorithm* algorithm, lt::HeuristicResult* result);
  lt::Status (*matmul)(lt::Context* context, lt::MatmulDesc* desc, const void* alpha, const void* a, lt::MatrixLayout* a_layout,
                       const void* b, lt::MatrixLayout* b_layout, const void* beta, const void* c, lt::MatrixLayout* c_layout,
                       void* d, lt::MatrixLayout* d_layout, const lt::Algorithm* algorithm, void* workspace,
                       size_t workspace_bytes, cudaStream_t stream);
};

/// The library of this process, opened by the first call that finds it; `folders` are looked in before the system's own places.
/// Throws DeviceError that says what to install. Defined in device_build.cc; tests have one of their own.
const CublasLt& load_cublaslt(std::span<const std::string> folders);

/// What load_cublaslt is made of. Version 13 is preferred to 12 wherever they lie.
CublasLt open_cublaslt(std::span<const std::string> folders);
/// The sentence for a machine without the library; `failures`: why files of its name could not be opened, may be empty.
inline std::string cublaslt_absence(const std::string& failures) {
  return str("cuBLASLt (libcublasLt.so.13 or libcublasLt.so.12), which multiplies matrices on the GPU, ",
             failures.empty() ? std::string("was not found") : "could not be opened (" + failures + ")",
             "; install it with `pip install nvidia-cublas` or the CUDA toolkit");
}

}  // namespace pagoda::cuda

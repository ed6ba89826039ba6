// The library's functions on plain structs; a product is a closure in the stream. Its load_cublaslt takes the place of
// cuda/device_build.cc's.
#include "emulated_cublaslt.h"

#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/dtype.h"
#include "cuda/cublaslt.h"
#include "io/code_values.h"
#include "runtime.h"

namespace pagoda::cuda::lt {

struct Context {
  int unused = 0;
};
struct MatmulDesc {
  Operation a = Operation::none, b = Operation::none;
  ScaleMode a_mode = ScaleMode::one_number, b_mode = ScaleMode::one_number;
  const float *a_scales = nullptr, *b_scales = nullptr;
};
struct MatrixLayout {
  DataType type;
  uint64_t rows, cols;
  int64_t leading_dimension;
};
struct MatmulPreference {
  uint64_t max_workspace_bytes = 0;
  uint32_t reductions = 7;
};

}  // namespace pagoda::cuda::lt

namespace emu {

CublasLt& cublaslt() {
  static CublasLt instance;
  return instance;
}

namespace {

namespace lt = pagoda::cuda::lt;

using lt::kInvalidValue;
constexpr lt::Status kExecutionFailed = 13;
constexpr uint64_t kMark = 0x70a90da;  ///< in the second word of every algorithm that this library gave out

/// d[n, m] (row-major) = b[n, k] * a[m, k]^T; of e4m3 with scales of their rows.
struct Product {
  LtAlgorithm algorithm;
  int64_t m, n, k;
  const void *a, *b;
  int64_t a_stride, b_stride, d_stride;
  void* d;
  lt::DataType type;
  float* workspace;
  bool e4m3;
  const float *a_scales, *b_scales;

  float value(const void* values, int64_t at) const {
    return e4m3 ? pagoda::e4m3_to_float(static_cast<const uint8_t*>(values)[at])
                : pagoda::bf16_to_float(static_cast<const uint16_t*>(values)[at]);
  }
  float add(float sum, int64_t row, int64_t token, int64_t i) const {
    return std::fma(value(a, row * a_stride + i), value(b, token * b_stride + i), sum);
  }
};

float ascending(const Product& p, int64_t row, int64_t token, int64_t begin, int64_t end) {
  float sum = 0;
  for (int64_t i = begin; i < end; ++i) {
    sum = p.add(sum, row, token, i);
  }
  return sum;
}

float descending(const Product& p, int64_t row, int64_t token) {
  float sum = 0;
  for (int64_t i = p.k; i-- > 0;) {
    sum = p.add(sum, row, token, i);
  }
  return sum;
}

float element(const Product& p, int64_t row, int64_t token) {
  switch (p.algorithm.order) {
    case LtAlgorithm::Order::ascending:
      break;
    case LtAlgorithm::Order::descending:
      return descending(p, row, token);
    case LtAlgorithm::Order::by_num_tokens:
      if (p.n > 20) return descending(p, row, token);
      break;
    case LtAlgorithm::Order::by_row:
      if (token >= 8) return descending(p, row, token);
      break;
    case LtAlgorithm::Order::split:
      p.workspace[0] = ascending(p, row, token, 0, p.k / 2);
      return p.workspace[0] + ascending(p, row, token, p.k / 2, p.k);
  }
  return ascending(p, row, token, 0, p.k);
}

void multiply(const Product& p) {
  for (int64_t token = 0; token < p.n; ++token) {
    for (int64_t row = 0; row < p.m; ++row) {
      float value = element(p, row, token);
      if (p.e4m3) value *= p.a_scales[row] * p.b_scales[token];
      const int64_t at = token * p.d_stride + row;
      if (p.type == lt::DataType::f32) {
        static_cast<float*>(p.d)[at] = value;
      } else {
        static_cast<uint16_t*>(p.d)[at] = pagoda::float_to_bf16(value);
      }
    }
  }
  spend_time(p.algorithm.milliseconds + p.algorithm.milliseconds_per_token * static_cast<double>(p.n) -
             (p.e4m3 ? cublaslt().e4m3_saves : 0));
}

/// The algorithm that the words stand for, null if this library did not give them out or no longer has it.
const LtAlgorithm* known(const lt::Algorithm& algorithm) {
  if (algorithm.data[1] != kMark || algorithm.data[0] >= cublaslt().algorithms.size()) return nullptr;
  return &cublaslt().algorithms[algorithm.data[0]];
}

bool in_range(const LtAlgorithm& algorithm, uint64_t num_tokens) {
  return static_cast<int64_t>(num_tokens) >= algorithm.min_tokens && static_cast<int64_t>(num_tokens) <= algorithm.max_tokens;
}

size_t workspace_bytes(const LtAlgorithm& algorithm) { return algorithm.order == LtAlgorithm::Order::split ? 4 : 0; }

/// Rows and columns in whole vectors of 16 bytes, a scale for each row.
bool suits_e4m3(const lt::MatmulDesc& desc, const lt::MatrixLayout& a, const lt::MatrixLayout& b) {
  const bool sizes = a.rows % 16 == 0 && a.cols % 16 == 0 && a.leading_dimension % 16 == 0 && b.leading_dimension % 16 == 0;
  return a.type == lt::DataType::e4m3 && sizes && desc.a_mode == lt::ScaleMode::vector_of_rows && desc.b_mode == desc.a_mode &&
         desc.a_scales && desc.b_scales;
}

/// Only what Pagoda asks for: D[m, n] = A[k, m]^T * B[k, n], columns contiguous.
bool consistent(const lt::MatmulDesc& desc, const lt::MatrixLayout& a, const lt::MatrixLayout& b, const lt::MatrixLayout& d) {
  const auto fits = [](const lt::MatrixLayout& x) { return x.leading_dimension >= static_cast<int64_t>(x.rows); };
  const bool shapes = a.rows == b.rows && a.cols == d.rows && b.cols == d.cols && fits(a) && fits(b) && fits(d);
  return desc.a == lt::Operation::transpose && desc.b == lt::Operation::none && shapes && a.type == b.type &&
         (a.type == lt::DataType::bf16 ? desc.a_mode == lt::ScaleMode::one_number && desc.b_mode == desc.a_mode
                                       : suits_e4m3(desc, a, b));
}

lt::Status heuristics(lt::Context*, lt::MatmulDesc* desc, lt::MatrixLayout* a, lt::MatrixLayout* b, lt::MatrixLayout*,
                      lt::MatrixLayout* d, lt::MatmulPreference* preference, int max_results, lt::HeuristicResult* results,
                      int* num_results) {
  ++cublaslt().num_proposals;
  *num_results = 0;
  if (!consistent(*desc, *a, *b, *d)) return kInvalidValue;
  if (a->type == lt::DataType::e4m3 && !cublaslt().proposes_e4m3) return lt::kNotSupported;
  for (size_t i = 0; i < cublaslt().algorithms.size() && *num_results < max_results; ++i) {
    const LtAlgorithm& algorithm = cublaslt().algorithms[i];
    const bool split = algorithm.order == LtAlgorithm::Order::split;
    if (!in_range(algorithm, d->cols) || workspace_bytes(algorithm) > preference->max_workspace_bytes) continue;
    if (split && !(preference->reductions & lt::kReductionComputeType)) continue;
    results[(*num_results)++] = {{{i, kMark}}, workspace_bytes(algorithm), lt::kSuccess, 1, {}};
  }
  return *num_results ? lt::kSuccess : lt::kNotSupported;
}

lt::Status check(lt::Context*, lt::MatmulDesc* desc, lt::MatrixLayout* a, lt::MatrixLayout* b, lt::MatrixLayout*,
                 lt::MatrixLayout* d, const lt::Algorithm* algorithm, lt::HeuristicResult* result) {
  const LtAlgorithm* found = known(*algorithm);
  if (!found || !consistent(*desc, *a, *b, *d)) return kInvalidValue;
  if (!in_range(*found, d->cols)) return lt::kNotSupported;
  *result = {{}, workspace_bytes(*found), lt::kSuccess, 1, {}};
  return lt::kSuccess;
}

lt::Status matmul(lt::Context*, lt::MatmulDesc* desc, const void* alpha, const void* a, lt::MatrixLayout* a_layout,
                  const void* b, lt::MatrixLayout* b_layout, const void* beta, const void* c, lt::MatrixLayout*, void* d,
                  lt::MatrixLayout* d_layout, const lt::Algorithm* algorithm, void* workspace, size_t bytes,
                  cudaStream_t stream) {
  const LtAlgorithm* found = known(*algorithm);
  if (!found || !consistent(*desc, *a_layout, *b_layout, *d_layout) || c != d) return kInvalidValue;
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0) return kInvalidValue;
  if (!in_range(*found, d_layout->cols)) return lt::kNotSupported;
  if (workspace_bytes(*found) > bytes || (workspace_bytes(*found) && !workspace)) return kInvalidValue;
  if (reinterpret_cast<uintptr_t>(workspace) % 256) return kInvalidValue;
  for (const void* pointer : {a, b, static_cast<const void*>(d)}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16) return kInvalidValue;
  }
  if (a_layout->type == lt::DataType::e4m3 && !cublaslt().runs_e4m3) return kInvalidValue;
  std::vector<bool>& used = cublaslt().used;
  used.resize(cublaslt().algorithms.size());
  if (is_recording(stream) && !used[algorithm->data[0]]) return kExecutionFailed;
  used[algorithm->data[0]] = true;
  const Product product{*found,
                        static_cast<int64_t>(d_layout->rows),
                        static_cast<int64_t>(d_layout->cols),
                        static_cast<int64_t>(a_layout->rows),
                        a,
                        b,
                        a_layout->leading_dimension,
                        b_layout->leading_dimension,
                        d_layout->leading_dimension,
                        d,
                        d_layout->type,
                        static_cast<float*>(workspace),
                        a_layout->type == lt::DataType::e4m3,
                        desc->a_scales,
                        desc->b_scales};
  enqueue(stream, Work{[product] { multiply(product); }, {}, true});
  return lt::kSuccess;
}

template <class T>
lt::Status create(T** object) {
  *object = new T;
  return lt::kSuccess;
}

template <class T>
lt::Status destroy(T* object) {
  delete object;
  return lt::kSuccess;
}

/// Copies an attribute whose size must be that of `to`.
template <class T>
lt::Status set(T& to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return kInvalidValue;
  std::memcpy(&to, value, bytes);
  return lt::kSuccess;
}

lt::Status set_desc(lt::MatmulDesc* desc, lt::DescAttribute attribute, const void* value, size_t bytes) {
  switch (attribute) {
    case lt::DescAttribute::transa:
      return set(desc->a, value, bytes);
    case lt::DescAttribute::transb:
      return set(desc->b, value, bytes);
    case lt::DescAttribute::a_scale_pointer:
      return set(desc->a_scales, value, bytes);
    case lt::DescAttribute::b_scale_pointer:
      return set(desc->b_scales, value, bytes);
    case lt::DescAttribute::a_scale_mode:
      return cublaslt().knows_scales ? set(desc->a_mode, value, bytes) : kInvalidValue;
    case lt::DescAttribute::b_scale_mode:
      return cublaslt().knows_scales ? set(desc->b_mode, value, bytes) : kInvalidValue;
  }
  return kInvalidValue;
}

lt::Status set_layout(lt::MatrixLayout* layout, lt::LayoutAttribute attribute, const void* value, size_t bytes) {
  switch (attribute) {
    case lt::LayoutAttribute::type:
      return set(layout->type, value, bytes);
    case lt::LayoutAttribute::rows:
      return set(layout->rows, value, bytes);
    case lt::LayoutAttribute::cols:
      return set(layout->cols, value, bytes);
    case lt::LayoutAttribute::leading_dimension:
      return set(layout->leading_dimension, value, bytes);
  }
  return kInvalidValue;
}

lt::Status set_preference(lt::MatmulPreference* preference, lt::PreferenceAttribute attribute, const void* value,
                          size_t bytes) {
  uint32_t alignment = 0;
  switch (attribute) {
    case lt::PreferenceAttribute::max_workspace_bytes:
      return set(preference->max_workspace_bytes, value, bytes);
    case lt::PreferenceAttribute::reduction_scheme_mask:
      return set(preference->reductions, value, bytes);
    default:
      return set(alignment, value, bytes);
  }
}

pagoda::cuda::CublasLt table() {
  pagoda::cuda::CublasLt table{};
  table.path = "emulated cuBLASLt";
  table.create = create<lt::Context>;
  table.destroy = destroy<lt::Context>;
  table.version = [] { return cublaslt().version; };
  table.status_name = [](lt::Status status) { return status == lt::kNotSupported ? "NOT_SUPPORTED" : "INVALID_VALUE"; };
  table.desc_create = [](lt::MatmulDesc** desc, lt::ComputeType compute, lt::DataType scale) {
    *desc = new lt::MatmulDesc;
    return compute == lt::ComputeType::f32 && scale == lt::DataType::f32 ? lt::kSuccess : kInvalidValue;
  };
  table.desc_destroy = destroy<lt::MatmulDesc>;
  table.desc_set = set_desc;
  table.layout_create = [](lt::MatrixLayout** layout, lt::DataType type, uint64_t rows, uint64_t cols, int64_t stride) {
    *layout = new lt::MatrixLayout{type, rows, cols, stride};
    return lt::kSuccess;
  };
  table.layout_destroy = destroy<lt::MatrixLayout>;
  table.layout_set = set_layout;
  table.preference_create = create<lt::MatmulPreference>;
  table.preference_destroy = destroy<lt::MatmulPreference>;
  table.preference_set = set_preference;
  table.heuristics = heuristics;
  table.check = check;
  table.matmul = matmul;
  return table;
}

}  // namespace
}  // namespace emu

namespace pagoda::cuda {

const CublasLt& load_cublaslt(std::span<const std::string>) {
  if (emu::cublaslt().absent) throw DeviceError(cublaslt_absence(""));
  static const CublasLt library = emu::table();
  return library;
}

}  // namespace pagoda::cuda

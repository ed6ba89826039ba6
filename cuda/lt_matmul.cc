// The library counts matrices by columns. What we keep row by row is to it the transpose: out^T[rows, T] = W * x^T, where W is
// seen as its transpose [cols, rows] and turned by the operation of A.
#include "cuda/lt_matmul.h"

#include "core/check.h"

namespace pagoda::cuda {
namespace {

constexpr int kMaxCandidates = 16;
/// What operands are aligned to: weights as matrix.h says, the others by fits_cublaslt.
constexpr uint32_t kWeightAlignment = 128;
constexpr uint32_t kRowAlignment = 16;

bool aligned_rows(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % kRowAlignment == 0 &&
         static_cast<size_t>(tensor.row_stride) * dtype_bytes(tensor.dtype) % kRowAlignment == 0;
}

Tensor view(const Matrix& weight) {
  return {const_cast<void*>(weight.values), DType::bf16, {weight.rows, weight.cols}, weight.stride};
}

lt::DataType data_type(DType dtype) { return dtype == DType::f32 ? lt::DataType::f32 : lt::DataType::bf16; }

}  // namespace

bool fits_cublaslt(const GemmOperands& operands) {
  const bool types = operands.weight.format == MatrixFormat::bf16 && operands.x.dtype == DType::bf16 &&
                     (operands.out.dtype == DType::bf16 || operands.out.dtype == DType::f32);
  return types && aligned_rows(operands.x) && aligned_rows(operands.out);
}

LtMatmul::LtMatmul(const CublasLt& library)
    : library_(library),
      context_(nullptr, library.destroy),
      desc_(nullptr, library.desc_destroy),
      weight_(make_layout()),
      x_(make_layout()),
      out_(make_layout()) {
  lt::Context* context = nullptr;
  check(library_.create(&context), "starting");
  context_.reset(context);
  lt::MatmulDesc* desc = nullptr;
  check(library_.desc_create(&desc, lt::ComputeType::f32, lt::DataType::f32), "describing a product");
  desc_.reset(desc);
  const lt::Operation transpose = lt::Operation::transpose;
  check(library_.desc_set(desc, lt::DescAttribute::transa, &transpose, sizeof(transpose)), "describing a product");
}

void LtMatmul::check(lt::Status status, const char* what) const {
  if (status != lt::kSuccess) throw DeviceError(str("cuBLASLt, ", what, ": ", library_.status_name(status)));
}

LtMatmul::Owned<lt::MatrixLayout> LtMatmul::make_layout() const {
  lt::MatrixLayout* layout = nullptr;
  check(library_.layout_create(&layout, lt::DataType::bf16, 1, 1, 1), "describing a matrix");
  return {layout, library_.layout_destroy};
}

void LtMatmul::set_layout(lt::MatrixLayout& layout, const Tensor& matrix) const {
  const auto set = [&](lt::LayoutAttribute attribute, const auto& value) {
    check(library_.layout_set(&layout, attribute, &value, sizeof(value)), "describing a matrix");
  };
  set(lt::LayoutAttribute::type, data_type(matrix.dtype));
  set(lt::LayoutAttribute::rows, static_cast<uint64_t>(matrix.cols()));
  set(lt::LayoutAttribute::cols, static_cast<uint64_t>(matrix.rows()));
  set(lt::LayoutAttribute::leading_dimension, matrix.row_stride);
}

void LtMatmul::describe(const GemmOperands& operands) const {
  set_layout(*weight_, view(operands.weight));
  set_layout(*x_, operands.x);
  set_layout(*out_, operands.out);
}

std::vector<lt::Algorithm> LtMatmul::candidates(const GemmOperands& operands, uint32_t reductions) {
  describe(operands);
  lt::MatmulPreference* created = nullptr;
  check(library_.preference_create(&created), "stating a preference");
  const Owned<lt::MatmulPreference> preference(created, library_.preference_destroy);
  const auto set = [&](lt::PreferenceAttribute attribute, const auto& value) {
    check(library_.preference_set(preference.get(), attribute, &value, sizeof(value)), "stating a preference");
  };
  set(lt::PreferenceAttribute::max_workspace_bytes, uint64_t{kWorkspaceBytes});
  set(lt::PreferenceAttribute::reduction_scheme_mask, reductions);
  set(lt::PreferenceAttribute::min_alignment_a_bytes, kWeightAlignment);
  set(lt::PreferenceAttribute::min_alignment_b_bytes, kRowAlignment);
  set(lt::PreferenceAttribute::min_alignment_c_bytes, kRowAlignment);
  set(lt::PreferenceAttribute::min_alignment_d_bytes, kRowAlignment);
  lt::HeuristicResult results[kMaxCandidates];
  int num_results = 0;
  const lt::Status status = library_.heuristics(context_.get(), desc_.get(), weight_.get(), x_.get(), out_.get(), out_.get(),
                                                preference.get(), kMaxCandidates, results, &num_results);
  std::vector<lt::Algorithm> algorithms;
  if (status == lt::kNotSupported) return algorithms;
  check(status, "asking for algorithms");
  for (int i = 0; i < num_results; ++i) {
    if (results[i].state == lt::kSuccess) algorithms.push_back(results[i].algorithm);
  }
  return algorithms;
}

bool LtMatmul::supports(const GemmOperands& operands, const lt::Algorithm& algorithm) {
  describe(operands);
  lt::HeuristicResult result{};
  const lt::Status status =
      library_.check(context_.get(), desc_.get(), weight_.get(), x_.get(), out_.get(), out_.get(), &algorithm, &result);
  return status == lt::kSuccess && result.workspace_bytes <= kWorkspaceBytes;
}

bool LtMatmul::run(cudaStream_t stream, const GemmOperands& operands, const lt::Algorithm& algorithm, void* workspace) {
  describe(operands);
  const float one = 1, zero = 0;
  const lt::Status status = library_.matmul(context_.get(), desc_.get(), &one, operands.weight.values, weight_.get(),
                                            operands.x.data, x_.get(), &zero, operands.out.data, out_.get(), operands.out.data,
                                            out_.get(), &algorithm, workspace, kWorkspaceBytes, stream);
  if (status == lt::kNotSupported) return false;
  check(status, "multiplying");
  return true;
}

}  // namespace pagoda::cuda

// The library counts matrices by columns. What we keep row by row is to it the transpose: out^T[rows, T] = W * x^T, where W is
// seen as its transpose [cols, rows] and turned by the operation of A. That is the one form in which it multiplies e4m3, and
// vectors of scales exist for it on sm_90 alone: elsewhere it refuses, sooner or later.
#include "cuda/lt_matmul.h"

#include "core/check.h"
#include "cuda/quantise_rows.h"

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

bool is_f8(const GemmOperands& operands) { return operands.weight.format == MatrixFormat::f8; }

DType input_type(const GemmOperands& operands) { return is_f8(operands) ? DType::f8_e4m3 : DType::bf16; }

Tensor weight_view(const GemmOperands& operands) {
  const Matrix& weight = operands.weight;
  return {const_cast<void*>(weight.values), input_type(operands), {weight.rows, weight.cols}, weight.stride};
}

lt::DataType data_type(DType dtype) {
  return dtype == DType::f32 ? lt::DataType::f32 : dtype == DType::f8_e4m3 ? lt::DataType::e4m3 : lt::DataType::bf16;
}

/// Whether the status says that there is no way to compute the product. What is wrong with e4m3 counts as that: which devices
/// and versions multiply them is the library's to know.
bool refuses(lt::Status status, const GemmOperands& operands) {
  return status == lt::kNotSupported || (is_f8(operands) && status == lt::kInvalidValue);
}

}  // namespace

bool fits_cublaslt(const GemmOperands& operands) {
  const Matrix& weight = operands.weight;
  const bool known =
      weight.format == MatrixFormat::bf16 ||
      (weight.format == MatrixFormat::f8 && weight.rows % kRowAlignment == 0 && weight.cols % kRowAlignment == 0);
  const bool types = operands.x.dtype == DType::bf16 && (operands.out.dtype == DType::bf16 || operands.out.dtype == DType::f32);
  return known && types && aligned_rows(operands.x) && aligned_rows(operands.out);
}

LtMatmul::LtMatmul(const CublasLt& library)
    : library_(library),
      context_(nullptr, library.destroy),
      desc_(make_desc()),
      f8_desc_(make_desc()),
      weight_(make_layout()),
      x_(make_layout()),
      out_(make_layout()) {
  lt::Context* context = nullptr;
  check(library_.create(&context), "starting");
  context_.reset(context);
  const lt::ScaleMode mode = lt::ScaleMode::vector_of_rows;
  for (const lt::DescAttribute attribute : {lt::DescAttribute::a_scale_mode, lt::DescAttribute::b_scale_mode}) {
    if (f8_desc_ && library.desc_set(f8_desc_.get(), attribute, &mode, sizeof(mode)) != lt::kSuccess) f8_desc_.reset();
  }
}

LtMatmul::Owned<lt::MatmulDesc> LtMatmul::make_desc() const {
  lt::MatmulDesc* desc = nullptr;
  check(library_.desc_create(&desc, lt::ComputeType::f32, lt::DataType::f32), "describing a product");
  Owned<lt::MatmulDesc> owned(desc, library_.desc_destroy);
  const lt::Operation transpose = lt::Operation::transpose;
  check(library_.desc_set(desc, lt::DescAttribute::transa, &transpose, sizeof(transpose)), "describing a product");
  return owned;
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

/// The description of products like this one, null if the library has none. `x`: its quantised rows, or where they could be.
lt::MatmulDesc* LtMatmul::describe(const GemmOperands& operands, const QuantisedRows& x) const {
  set_layout(*weight_, weight_view(operands));
  set_layout(*out_, operands.out);
  if (!is_f8(operands)) {
    set_layout(*x_, operands.x);
    return desc_.get();
  }
  if (!f8_desc_) return nullptr;
  set_layout(*x_, Tensor::dense(x.values, DType::f8_e4m3, operands.x.shape));
  const auto set = [&](lt::DescAttribute attribute, const void* scales) {
    check(library_.desc_set(f8_desc_.get(), attribute, &scales, sizeof(scales)), "describing a product");
  };
  set(lt::DescAttribute::a_scale_pointer, operands.weight.scales);
  set(lt::DescAttribute::b_scale_pointer, x.scales ? x.scales : operands.weight.scales);
  return f8_desc_.get();
}

std::vector<lt::Algorithm> LtMatmul::candidates(const GemmOperands& operands, uint32_t reductions) {
  std::vector<lt::Algorithm> algorithms;
  lt::MatmulDesc* const desc = describe(operands, {});
  if (!desc) return algorithms;
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
  const lt::Status status = library_.heuristics(context_.get(), desc, weight_.get(), x_.get(), out_.get(), out_.get(),
                                                preference.get(), kMaxCandidates, results, &num_results);
  if (refuses(status, operands)) return algorithms;
  check(status, "asking for algorithms");
  for (int i = 0; i < num_results; ++i) {
    if (results[i].state == lt::kSuccess) algorithms.push_back(results[i].algorithm);
  }
  return algorithms;
}

bool LtMatmul::supports(const GemmOperands& operands, const lt::Algorithm& algorithm) {
  lt::MatmulDesc* const desc = describe(operands, {});
  lt::HeuristicResult result{};
  return desc &&
         library_.check(context_.get(), desc, weight_.get(), x_.get(), out_.get(), out_.get(), &algorithm, &result) ==
             lt::kSuccess &&
         result.workspace_bytes <= kWorkspaceBytes;
}

bool LtMatmul::run(const Queue& queue, const GemmOperands& operands, const lt::Algorithm& algorithm, void* workspace) {
  const void* x = operands.x.data;
  QuantisedRows quantised;
  workspace = reinterpret_cast<void*>(aligned(reinterpret_cast<intptr_t>(workspace)));
  if (is_f8(operands)) {
    auto* const rows = static_cast<std::byte*>(workspace) + kWorkspaceBytes;
    quantised = {rows, reinterpret_cast<float*>(rows + aligned(operands.x.shape.numel()))};
    quantise_rows(queue, quantised.values, quantised.scales, operands.x);
    x = quantised.values;
  }
  lt::MatmulDesc* const desc = describe(operands, quantised);
  if (!desc) return false;
  const float one = 1, zero = 0;
  const lt::Status status =
      library_.matmul(context_.get(), desc, &one, operands.weight.values, weight_.get(), x, x_.get(), &zero, operands.out.data,
                      out_.get(), operands.out.data, out_.get(), &algorithm, workspace, kWorkspaceBytes, queue.stream);
  if (refuses(status, operands)) return false;
  check(status, "multiplying");
  return true;
}

}  // namespace pagoda::cuda

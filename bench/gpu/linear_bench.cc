// Products with the weights of one layer and of the head, by our own kernel in every format and by cuBLASLt as the engine tunes
// it, in f8 with the time that quantising x takes. Few tokens: bound by the bytes of the weight; many: by the tensor cores.
#include <algorithm>
#include <string_view>

#include "cuda/gemm.h"
#include "cuda/kernels.h"
#include "families.h"

namespace pagoda::bench {
namespace {

struct Shape {
  const char* name;
  int64_t rows, cols;
  DType out = DType::bf16;
};

std::vector<Shape> shapes(bool smoke) {
  if (smoke) return {{"gate_up", 96, 64}, {"head", 128, 64, DType::f32}};
  return {{"qkv", 6144, 4096},
          {"out", 4096, 4096},
          {"gate_up", 28672, 4096},
          {"down", 4096, 14336},
          {"head", 128256, 4096, DType::f32}};
}

std::vector<int64_t> token_counts(bool smoke, const Shape& shape) {
  if (smoke) return {1, 3};
  std::vector<int64_t> counts = {1, 8, 16, 64, 256};
  if (shape.out == DType::bf16) counts.push_back(2048);  // the head sees rows that need logits only
  return counts;
}

const char* format_name(cuda::MatrixFormat format) {
  constexpr const char* kNames[cuda::kNumMatrixFormats] = {"bf16", "q8_0", "q4", "f8", "f8_blocks"};
  return kNames[static_cast<int>(format)];
}

cuda::Matrix random_matrix(BenchDevice& device, const Shape& shape, cuda::MatrixFormat format) {
  const int64_t stride = cuda::matrix_stride(shape.cols);
  cuda::Matrix matrix{format, shape.rows, shape.cols, stride, nullptr, nullptr};
  const bool plain = format == cuda::MatrixFormat::bf16;
  const bool e4m3 = format == cuda::MatrixFormat::f8 || format == cuda::MatrixFormat::f8_blocks;
  const Fill fill = plain ? Fill::bf16 : e4m3 ? Fill::e4m3 : Fill::bytes;
  matrix.values = device.random(cuda::matrix_value_bytes(format, shape.rows * stride), fill, 0.02f);
  const size_t scale_bytes = cuda::matrix_scale_bytes(format, shape.rows, stride);
  if (!plain) matrix.scales = device.random(scale_bytes, e4m3 ? Fill::f32 : Fill::f16, 0.001f);
  return matrix;
}

/// One shape's operands: weights that do not fit in the cache together, one x and one output.
struct Operands {
  std::vector<cuda::Matrix> weights;
  Tensor x, out;
  void* workspace = nullptr;

  Operands(BenchDevice& device, const Shape& shape, cuda::MatrixFormat format, int64_t max_tokens) {
    const size_t bytes =
        cuda::matrix_value_bytes(format, shape.rows * shape.cols) + cuda::matrix_scale_bytes(format, shape.rows, shape.cols);
    for (int i = 0; i < device.copies(bytes); ++i) weights.push_back(random_matrix(device, shape, format));
    x = device.random_tensor(DType::bf16, max_tokens, shape.cols);
    out = device.random_tensor(shape.out, max_tokens, shape.rows);
    const size_t own = cuda::linear_workspace(max_tokens, shape.rows, shape.cols, format);
    workspace = device.memory(std::max(own, cuda::Gemm::workspace_bytes(format, max_tokens, shape.cols)));
  }

  int num_different() const { return static_cast<int>(weights.size()); }
  cuda::GemmOperands first_rows(int64_t tokens, int run) const {
    cuda::GemmOperands operands{out, x, weights[static_cast<size_t>(run)]};
    operands.x.shape = {tokens, x.cols()};
    operands.out.shape = {tokens, out.cols()};
    return operands;
  }
};

Work work_of(const Shape& shape, cuda::MatrixFormat format, int64_t tokens) {
  const double values = static_cast<double>(shape.rows * shape.cols), m = static_cast<double>(tokens);
  const double weight = static_cast<double>(cuda::matrix_value_bytes(format, shape.rows * shape.cols) +
                                            cuda::matrix_scale_bytes(format, shape.rows, shape.cols));
  const double rows = static_cast<double>(shape.rows) * static_cast<double>(dtype_bytes(shape.out));
  return {weight + m * (static_cast<double>(shape.cols) * 2 + rows), 2 * m * values};
}

std::vector<Field> what_of(const Shape& shape, cuda::MatrixFormat format, int64_t tokens, const char* by) {
  return {field("weight", shape.name),          field("rows", shape.rows), field("cols", shape.cols),
          field("format", format_name(format)), field("tokens", tokens),   field("by", by)};
}

void bench_own(BenchDevice& device, Report& report, const Shape& shape, cuda::MatrixFormat format) {
  const std::vector<int64_t> counts = token_counts(device.smoke(), shape);
  const Operands operands(device, shape, format, counts.back());
  for (const int64_t tokens : counts) {
    const Timing timing = device.time(operands.num_different(), [&](int run) {
      const cuda::GemmOperands o = operands.first_rows(tokens, run);
      cuda::linear(device.queue(), o.out, o.x, o.weight, nullptr, operands.workspace);
    });
    report.add("linear", what_of(shape, format, tokens, "own kernel"), work_of(shape, format, tokens), timing);
  }
  device.clear();
}

/// Gate and up with their activation, in one launch and in two.
void bench_gated(BenchDevice& device, Report& report, const Shape& shape, cuda::MatrixFormat format) {
  const std::vector<int64_t> counts = token_counts(device.smoke(), shape);
  const Operands operands(device, shape, format, counts.back());
  const Tensor gated = device.random_tensor(DType::bf16, counts.back(), shape.rows / 2);
  for (const int64_t tokens : counts) {
    for (const bool fused : {true, false}) {
      const Timing timing = device.time(operands.num_different(), [&](int run) {
        const cuda::GemmOperands o = operands.first_rows(tokens, run);
        Tensor out = gated;
        out.shape = {tokens, shape.rows / 2};
        if (fused) {
          cuda::gated_linear(device.queue(), out, o.out, o.x, o.weight, nullptr, Activation::silu, operands.workspace);
        } else {
          cuda::linear(device.queue(), o.out, o.x, o.weight, nullptr, operands.workspace);
          cuda::gated_activation(device.queue(), out, o.out, Activation::silu);
        }
      });
      report.add("linear", what_of(shape, format, tokens, fused ? "own kernel, gated" : "own kernel, then gated"),
                 work_of(shape, format, tokens), timing);
    }
  }
  device.clear();
}

/// What the engine would do with cuBLASLt alone, once with any algorithm and once with those that sum alike for all numbers of
/// tokens: the difference is what `deterministic` costs.
void bench_cublaslt(BenchDevice& device, Report& report, const Settings& settings, const Shape& shape,
                    cuda::MatrixFormat format, bool deterministic) {
  const std::vector<int64_t> counts = token_counts(device.smoke(), shape);
  cuda::Queue queue = device.queue();
  queue.deterministic = deterministic;
  cuda::Gemm gemm(cuda::load_cublaslt(settings.library_folders));
  const cuda::GemmShape gemm_shape{shape.rows, shape.cols, cuda::matrix_stride(shape.cols), shape.out, counts.back(), format};
  gemm.prepare(queue, {&gemm_shape, 1}, {{}, settings.cache_folder, device.gpu().info.name, device.gpu().driver_version});
  const Operands operands(device, shape, format, counts.back());
  const char* by = deterministic ? "cuBLASLt, deterministic" : "cuBLASLt";
  for (const int64_t tokens : counts) {
    std::vector<Field> what = what_of(shape, format, tokens, by);
    if (!gemm.takes(operands.first_rows(tokens, 0))) {
      what.push_back(field("missing", "no algorithm, or none of one order of summation for all numbers of tokens"));
      report.add_plain("linear", std::move(what), {});
      continue;
    }
    const Timing timing = device.time(operands.num_different(), [&](int run) {
      gemm.run(queue, operands.first_rows(tokens, run), nullptr, operands.workspace);
    });
    report.add("linear", what, work_of(shape, format, tokens), timing);
  }
  device.clear();
}

}  // namespace

void bench_linear(BenchDevice& device, Report& report, const Settings& settings) {
  for (const Shape& shape : shapes(device.smoke())) {
    for (const cuda::MatrixFormat format : {cuda::MatrixFormat::bf16, cuda::MatrixFormat::q8, cuda::MatrixFormat::q4,
                                            cuda::MatrixFormat::f8, cuda::MatrixFormat::f8_blocks}) {
      bench_own(device, report, shape, format);
      if (shape.name == std::string_view("gate_up")) bench_gated(device, report, shape, format);
    }
    if (!report.ceilings.matmul_flops_per_second) continue;  // there is no cuBLASLt
    for (const cuda::MatrixFormat format : {cuda::MatrixFormat::bf16, cuda::MatrixFormat::f8}) {
      for (const bool deterministic : {false, true}) bench_cublaslt(device, report, settings, shape, format, deterministic);
    }
  }
}

}  // namespace pagoda::bench

// A gated MLP has the bits of its three steps, however the kernels run them together.
#include "cpu_linear_support.h"

namespace pagoda::cpu {
namespace {

void gate(float* out, const float* gates, const float* ups, int64_t n, Activation) {
  for (int64_t i = 0; i < n; ++i) out[i] = gates[i] * ups[i];
}

/// A gated MLP in three steps.
std::vector<float> expected_mlp(const LinearKernels& kernels, ThreadPool& pool, const Matrix& up, const Matrix& down,
                                const std::vector<float>& x, const std::vector<float>& bias,
                                const std::vector<float>& down_bias) {
  const int64_t n = down.cols(), t = static_cast<int64_t>(x.size()) / up.cols();
  const std::vector<float> both = multiply(kernels, pool, up, x, bias.data());
  std::vector<float> gated(static_cast<size_t>(t * n));
  for (int64_t i = 0; i < t; ++i) gate(&gated[i * n], &both[i * 2 * n], &both[i * 2 * n + n], n, Activation::silu);
  return multiply(kernels, pool, down, gated, down_bias.data());
}

void expect_same_mlp(const LinearKernels& kernels, ThreadPool& pool, const Matrix& up, const Matrix& down, int64_t t) {
  const int64_t n = down.cols(), rows = down.rows();
  const std::vector<float> bias = random_input(2 * n, 9), x = input_with_outliers(t * up.cols());
  const std::vector<float> down_bias = random_input(rows, 11);
  std::vector<float> input = x, out(static_cast<size_t>(t * rows)), gate_up(static_cast<size_t>(2 * std::min(t, kMlpRows) * n)),
                     gated(static_cast<size_t>(t * n));
  constexpr float kUntouched = -12345.0f;
  gate_up[0] = kUntouched;
  const auto view = [&](std::vector<float>& values, int64_t num_rows) {
    return Tensor::dense(values.data(), DType::f32, {num_rows, static_cast<int64_t>(values.size()) / num_rows});
  };
  std::vector<std::byte> workspace(std::max(linear_workspace(t, 2 * n, up.cols(), up.weight.part_formats),
                                            linear_workspace(t, rows, n, down.weight.part_formats)) +
                                   64);
  void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 63) / 64 * 64);
  const GatedMlp mlp{up.weight,      bias.data(),      Activation::silu,
                     down.weight,    down_bias.data(), view(gate_up, std::min(t, kMlpRows)),
                     view(gated, t), aligned};
  gated_mlp(kernels, pool, view(out, t), view(input, t), mlp, {gate, Activation::silu});
  EXPECT_TRUE(same_bits(out.data(), expected_mlp(kernels, pool, up, down, x, bias, down_bias).data(), t * rows))
      << t << " rows";
  const auto has_span = [&](const Matrix& m) { return kernels.span[static_cast<int>(m.formats[0])] != nullptr; };
  EXPECT_EQ(gate_up[0] == kUntouched, t > 1 && has_span(up) && has_span(down))
      << "gated in the product or not, " << t << " rows";
}

class CpuMlp : public OfKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, CpuMlp, testing::ValuesIn(kernel_sets()), name_of_set);

TEST_P(CpuMlp, has_the_bits_of_its_steps) {
  ThreadPool pool(2);
  for_each_kernels(GetParam(), [&](const LinearKernels& kernels) {
    for (const auto& [up_format, down_format, h, n] :
         {std::tuple{WeightFormat::bf16, WeightFormat::bf16, int64_t{96}, int64_t{64}},
          {WeightFormat::q4_1, WeightFormat::q8_0, 96, 64},
          {WeightFormat::q4_0, WeightFormat::f32, 96, 64},
          {WeightFormat::f16, WeightFormat::q4_0, 96, 64},
          {WeightFormat::q4_1, WeightFormat::q4_1, 16384, 64},
          {WeightFormat::q4_0, WeightFormat::q4_0, 96, 608},
          {WeightFormat::bf16, WeightFormat::q8_0, 640, 352}}) {
      if (n > 64 && kernels.span_rows == 0) continue;  // of wide ones, threads have rows of their own where there are spans
      SCOPED_TRACE(str(weight_format_info(up_format).name, " and ", weight_format_info(down_format).name));
      const Matrix up = make_matrix({{up_format, n}, {up_format, n}}, h, pool);
      const Matrix down = make_matrix({{down_format, 50}}, n, pool, 5);
      // Of the widest 33 rows are a block of 32 and one of a single row; 193 and 389 rows are two and three blocks of an MLP,
      // 389 are rows of one thread and of the other.
      for (const int64_t t : {1, 2, 31, 33, 70, 193, 389}) {
        if (t <= 70 || h < 16384) expect_same_mlp(kernels, pool, up, down, t);
      }
    }
  });
}

}  // namespace
}  // namespace pagoda::cpu

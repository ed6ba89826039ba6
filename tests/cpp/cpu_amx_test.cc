// AMX: the emulated tile registers, with which the products are tested on other machines, are those of the processor.
#include "cpu_linear_support.h"

namespace pagoda::cpu {
namespace {

#if defined(__x86_64__)
TEST(Amx, emulated_tiles_give_the_bits_of_the_processors) {
  if (!isa_supported(Isa::amx)) GTEST_SKIP() << "this machine has no AMX";
  ThreadPool pool(2);
  LinearKernels real = linear_kernels(Isa::amx, InputPrecision::bf16);
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::q4_0, WeightFormat::q6_k}) {
    SCOPED_TRACE(weight_format_info(format).name);
    const Matrix m = make_matrix({{format, 37}}, cols_for(format, 600), pool);
    for (const int64_t t : {1, 2, 5, 16, 17, 40}) {
      std::vector<float> x = input_with_outliers(t * m.cols());
      for (size_t i = 0; i < x.size(); i += 5) x[i] *= 1e-38f;  // among them subnormal numbers, and subnormal products
      EXPECT_TRUE(same_bits(multiply(real, pool, m, x).data(), multiply(emulated_amx_kernels(), pool, m, x).data(), t * 37))
          << t << " rows";
    }
  }
}
#endif

TEST(Amx, weights_and_inputs_in_bf16_need_it) {
  EXPECT_THROW(linear_kernels(Isa::portable, InputPrecision::bf16), InvalidArgument);
  if (isa_supported(Isa::avx2)) {
    EXPECT_THROW(linear_kernels(Isa::avx2, InputPrecision::bf16), InvalidArgument);
  }
}

TEST(Amx, a_gated_product_has_the_bits_of_its_two_steps) {
  ThreadPool pool(2);
  const auto activate = [](float* out, const float* gate, const float* up, int64_t n, Activation) {
    for (int64_t i = 0; i < n; ++i) out[i] = gate[i] * up[i];
  };
  int compared = 0;
  for_each_kernels([&](const LinearKernels& kernels) {
    for (const auto& [format, h] :
         {std::pair{WeightFormat::bf16, int64_t{96}}, {WeightFormat::q4_1, 96}, {WeightFormat::q4_1, 16384}}) {
      SCOPED_TRACE(weight_format_info(format).name);
      const int64_t n = 64;
      const Matrix up = make_matrix({{format, n}, {format, n}}, h, pool), down = make_matrix({{format, 50}}, n, pool, 5);
      const std::vector<float> bias = random_input(2 * n, 9);
      for (const int64_t t : {2, 31, 33, 70}) {  // of the widest 33 are a block of 32 and one of a single row
        if (!gates_in_product(kernels, t, up.weight) || !rounds_between(kernels, down.weight)) continue;
        ++compared;
        std::vector<float> x = random_input(t * h), gated(static_cast<size_t>(t * n)), between(gated.size()),
                           out(static_cast<size_t>(t * 50));
        const std::vector<float> both = multiply(kernels, pool, up, x, bias.data());
        for (int64_t i = 0; i < t; ++i)
          activate(&gated[static_cast<size_t>(i * n)], &both[static_cast<size_t>(i * 2 * n)],
                   &both[static_cast<size_t>(i * 2 * n + n)], n, Activation::silu);
        std::vector<std::byte> workspace(linear_workspace(t, 2 * n, h, up.weight.part_formats) +
                                         linear_workspace(t, 50, n, down.weight.part_formats) + 64);
        void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 63) / 64 * 64);
        const Tensor x_view = Tensor::dense(x.data(), DType::f32, {t, h}),
                     between_view = Tensor::dense(between.data(), DType::f32, {t, n});
        gated_linear(kernels, pool, between_view, x_view, up.weight, bias.data(), {activate, Activation::silu}, aligned);
        EXPECT_TRUE(same_bits(between.data(), gated.data(), t * n)) << t << " rows";
        const GatedMlp mlp{up.weight, bias.data(), Activation::silu, down.weight, nullptr, {}, between_view, aligned};
        gated_mlp(kernels, pool, Tensor::dense(out.data(), DType::f32, {t, 50}), x_view, mlp, {activate, Activation::silu});
        EXPECT_TRUE(same_bits(out.data(), multiply(kernels, pool, down, gated).data(), t * 50)) << t << " rows";
      }
    }
  });
  EXPECT_TRUE(compared > 0 || !isa_supported(Isa::avx512));
}

}  // namespace
}  // namespace pagoda::cpu

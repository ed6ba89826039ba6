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

}  // namespace
}  // namespace pagoda::cpu

// Tile kernels for AVX2 with AVX-VNNI. Compiled with -mavxvnni too; reached only through linear_kernels_avx2_vnni() on a CPU
// that has it.
#include "backend/cpu/linear_avx2_vnni.h"

namespace pagoda::cpu {
namespace {

struct Vnni {
  static __m256i add_products(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
};

}  // namespace

const LinearKernels& linear_kernels_avx2_vnni() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx2Vnni<Vnni>>(Isa::avx2_vnni);
  return kKernels;
}

}  // namespace pagoda::cpu

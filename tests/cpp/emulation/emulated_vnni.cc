// Compiled for AVX2.
#include "emulation/emulated_vnni.h"

#include "backend/cpu/linear_avx2_vnni.h"

namespace pagoda::cpu {
namespace {

struct EmulatedVnni {
  static __m256i add_products(__m256i sum, __m256i w, __m256i x) {
    const __m256i even_w = _mm256_and_si256(w, _mm256_set1_epi16(255)), odd_w = _mm256_srli_epi16(w, 8);
    const __m256i even_x = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd_x = _mm256_srai_epi16(x, 8);
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even_w, even_x), _mm256_madd_epi16(odd_w, odd_x)));
  }
};

}  // namespace

const LinearKernels& emulated_vnni_kernels() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx2Vnni<EmulatedVnni>>(Isa::avx2_vnni);
  return kKernels;
}

}  // namespace pagoda::cpu

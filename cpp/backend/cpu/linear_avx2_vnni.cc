// Tile kernels for AVX2 with AVX-VNNI: as linear_avx2.cc but for the products of bytes. Compiled with -mavxvnni too; reached
// only through linear_kernels_avx2_vnni() on a CPU that has it.
#include "backend/cpu/linear_avx2.h"

namespace pagoda::cpu {
namespace {

struct Avx2Vnni : Avx2 {
  /// sum + the four products of each lane: unsigned bytes of w times signed ones of x.
  static __m256i dot(__m256i sum, __m256i w, __m256i x) {
#ifdef PAGODA_WITHOUT_VNNI  // the same of AVX2's instructions, for tests on a CPU that has no other
    const __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
#else
    return _mm256_dpbusd_avx_epi32(sum, w, x);
#endif
  }

  template <int kBits>
  static Ints weights(Ints codes) {
    return codes;
  }

  /// Unsigned codes of any width: nothing can overflow.
  template <int kBits>
  struct Sums {
    static constexpr int kFold = 8;
    Ints sum;
    void start(int32_t offset) { sum = {_mm256_set1_epi32(offset), _mm256_set1_epi32(offset)}; }
    void add(Ints w, __m256i quad) { sum = {dot(sum.a, w.a, quad), dot(sum.b, w.b, quad)}; }
    void fold() {}
    Floats finish(int32_t /*offset, there from the start*/) const { return to_floats(sum); }
  };
};

}  // namespace

#ifdef PAGODA_WITHOUT_VNNI
const LinearKernels& linear_kernels_avx2_vnni_emulated();
const LinearKernels& linear_kernels_avx2_vnni_emulated() {
#else
const LinearKernels& linear_kernels_avx2_vnni() {
#endif
  static constexpr LinearKernels kKernels = make_linear_kernels<Avx2Vnni>(Isa::avx2_vnni);
  return kKernels;
}

}  // namespace pagoda::cpu

// The type that the tile kernels for AVX2 with AVX-VNNI are written over: as Avx2 but for the products of bytes.
#pragma once

#include "backend/cpu/linear_avx2.h"

namespace pagoda::cpu {
namespace {

/// `Vnni` offers add_products(sum, w, x): sum + the four products of each lane, unsigned bytes of w times signed ones of x.
template <class Vnni>
struct Avx2Vnni : Avx2 {
  static Ints repeat(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
  static Ints dot(Ints sum, Ints w, __m256i x) {
    return {Vnni::add_products(sum.a, w.a, x), Vnni::add_products(sum.b, w.b, x)};
  }
  template <int kBits>
  static Ints weights(Ints codes) {
    return codes;
  }
  template <int kBits>
  using Sums = DotSums<Avx2Vnni>;
};

}  // namespace
}  // namespace pagoda::cpu

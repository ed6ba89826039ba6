// Tile kernels for any little-endian CPU, in the compiler's vector extension: four 16-byte vectors are a panel's 16 columns and
// are lowered to whatever the baseline has (SSE2, NEON, scalars). Without a guaranteed fused multiply-add its sums differ in
// the last bits from the other instruction sets'.
#include <cstring>

#include "backend/cpu/linear_tile.h"

namespace pagoda::cpu {
namespace {

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef uint32_t U4 __attribute__((vector_size(16)));
typedef int16_t S8 __attribute__((vector_size(16)));

/// Columns 0-3, 4-7, 8-11 and 12-15.
template <class V>
struct Four {
  V a, b, c, d;
};

/// f on each of the four.
template <class F, class... V>
[[gnu::always_inline]] inline auto each(F f, const Four<V>&... x) {
  return Four<decltype(f(x.a...))>{f(x.a...), f(x.b...), f(x.c...), f(x.d...)};
}

/// One vector's bits as another type.
template <class To, class From>
[[gnu::always_inline]] inline To bits(From from) {
  return reinterpret_cast<To>(from);
}

template <class V>
[[gnu::always_inline]] inline Four<V> load(const std::byte* from) {
  Four<V> four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

/// Sums of neighbouring int16.
[[gnu::always_inline]] inline I4 sum_pairs(S8 v) { return (bits<I4>(v) >> 16) + (bits<I4>(bits<U4>(v) << 16) >> 16); }

struct Portable {
  static constexpr int kTileRows = 2;
  static constexpr bool kRoundsToBf16 = false;
  struct BytePairs {
    S8 even, odd;  // bytes 0 and 2, bytes 1 and 3 of each quad, widened
  };
  using Floats = Four<F4>;
  using Quads = Four<BytePairs>;
  using Bytes = Quads;
  using Sum4 = Four<S8>;  // two int16 per column: 8 quads of nibbles times int8 add up to at most 8 * 2 * 15 * 127 = 30480
  using Sum8 = Four<I4>;

  static Floats broadcast(float value) {
    const F4 v = F4{} + value;
    return {v, v, v, v};
  }
  static Floats zero() { return broadcast(0); }
  static Floats fma(const Floats& x, const Floats& y, const Floats& z) {
    return each([](F4 a, F4 b, F4 c) { return a * b + c; }, x, y, z);
  }
  static Floats mul(const Floats& x, const Floats& y) {
    return each([](F4 a, F4 b) { return a * b; }, x, y);
  }
  static Floats add(const Floats& x, const Floats& y) {
    return each([](F4 a, F4 b) { return a + b; }, x, y);
  }
  static Floats load_f32(const std::byte* from) { return load<F4>(from); }
  /// f16_to_float of core/dtype.h without branches: a multiplication moves the exponent, infinities and NaNs are put right
  /// after it.
  static Floats load_f16(const std::byte* from) {
    uint16_t half[16];
    std::memcpy(half, from, sizeof half);
    const auto widen = [](const uint16_t* h) {
      const U4 all = {h[0], h[1], h[2], h[3]};
      const U4 magnitude = all & 0x7fffu;
      const U4 finite = bits<U4>(bits<F4>(magnitude << 13) * 0x1p112f);
      const U4 special = (magnitude << 13) | 0x7f800000u;
      const U4 is_special = bits<U4>(bits<I4>(magnitude) >= 0x7c00);
      return bits<F4>((all & 0x8000u) << 16 | (is_special & special) | (~is_special & finite));
    };
    return {widen(half), widen(half + 4), widen(half + 8), widen(half + 12)};
  }
  static Floats load_bf16_first(const std::byte* from) {
    return each([](U4 v) { return bits<F4>(v << 16); }, load<U4>(from));
  }
  static Floats load_bf16_second(const std::byte* from) {
    return each([](U4 v) { return bits<F4>(v & 0xffff0000u); }, load<U4>(from));
  }
  static Floats load_part(const float* from, int width) {
    Floats v = zero();
    std::memcpy(&v, from, static_cast<size_t>(width) * sizeof(float));
    return v;
  }
  static void store(float* to, const Floats& value, int width) {
    std::memcpy(to, &value, static_cast<size_t>(width) * sizeof(float));
  }

  /// The input's four int8, spread over int16 like the weights.
  static BytePairs spread(int32_t x) {
    const S8 quad = bits<S8>(I4{} + x);
    return {quad << 8 >> 8, quad >> 8};
  }
  static Quads load_bytes(const std::byte* from) {
    return each([](U4 v) { return BytePairs{bits<S8>(v & 0x00ff00ffu), bits<S8>(v >> 8 & 0x00ff00ffu)}; }, load<U4>(from));
  }
  static Quads load_quads(const std::byte* from) { return load_bytes(from); }
  static Quads low_nibbles(const Quads& v) {
    return each([](const BytePairs& w) { return BytePairs{w.even & 15, w.odd & 15}; }, v);
  }
  static Quads high_nibbles(const Quads& v) {
    return each([](const BytePairs& w) { return BytePairs{w.even >> 4, w.odd >> 4}; }, v);
  }
  static Sum4 start4(int32_t /*offset, added at the end*/) { return Sum4{}; }
  static Sum4 dot4(const Sum4& sum, const Quads& weights, int32_t quad) {
    const BytePairs x = spread(quad);
    return each([&](S8 s, const BytePairs& w) { return s + w.even * x.even + w.odd * x.odd; }, sum, weights);
  }
  static Floats finish4(const Sum4& high, const Sum4& low, int32_t offset) {
    return each([&](S8 h, S8 l) { return __builtin_convertvector((sum_pairs(h) << kHighShift) + sum_pairs(l) + offset, F4); },
                high, low);
  }
  // One product, at most 255 * 127, fits int16; the sum of two does not.
  static Sum8 start8(int32_t offset) {
    const I4 v = I4{} + offset;
    return {v, v, v, v};
  }
  static Sum8 dot8(const Sum8& sum, const Bytes& weights, int32_t quad) {
    const BytePairs x = spread(quad);
    return each([&](I4 s, const BytePairs& w) { return s + sum_pairs(w.even * x.even) + sum_pairs(w.odd * x.odd); }, sum,
                weights);
  }
  static Floats finish8(const Sum8& high, const Sum8& low) {
    return each([](I4 h, I4 l) { return __builtin_convertvector((h << kHighShift) + l, F4); }, high, low);
  }

  static void quantise_block(const float* x, QuantBlock& out) { quantise_plainly<Portable>(x, out); }
};

}  // namespace

const LinearKernels& linear_kernels_portable() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Portable>(Isa::portable);
  return kKernels;
}

}  // namespace pagoda::cpu

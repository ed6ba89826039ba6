// Tile kernels for any little-endian CPU, in the compiler's vector extension: four 16-byte vectors are a panel's 16 columns and
// are lowered to whatever the baseline has (SSE2, NEON, scalars). Without a guaranteed fused multiply-add its sums differ in
// the last bits from the other instruction sets'.
#include <bit>
#include <cstring>

#include "backend/cpu/linear_table.h"

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
  static constexpr bool kHasPairs = false;
  static constexpr bool kRoundsToBf16 = false;
  struct BytePairs {
    S8 even, odd;  // bytes 0 and 2, bytes 1 and 3 of each quad, widened
  };
  using Floats = Four<F4>;

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

  static Four<U4> load_raw(const std::byte* from) { return load<U4>(from); }
  /// The bits of `kMask` in each byte after a shift to the right, or to the left if negative.
  template <int kShift, int kMask>
  static Four<U4> field(const Four<U4>& raw) {
    if constexpr (kMask == 0xff) return raw;
    constexpr uint32_t kMasks = kMask * 0x01010101u;
    return each([](U4 v) { return (kShift >= 0 ? v >> (kShift & 7) : v << (-kShift & 7)) & kMasks; }, raw);
  }
  /// The bits of `mask` in each lane of four bytes after a shift to the right.
  static Four<U4> bits_at(const std::byte* from, uint32_t shift, uint32_t mask) {
    return each([&](U4 v) { return v >> shift & mask; }, load<U4>(from));
  }
  /// Of each lane of four bytes.
  static Floats low_bytes(const Four<U4>& lanes) {
    return each([](U4 v) { return __builtin_convertvector(bits<I4>(v & 255u), F4); }, lanes);
  }
  static Four<U4> join(const Four<U4>& x, const Four<U4>& y) {
    return each([](U4 a, U4 b) { return a | b; }, x, y);
  }
  static Four<U4> look_up(const uint8_t* table, const Four<U4>& codes) {
    uint8_t bytes[64];
    std::memcpy(bytes, &codes, sizeof bytes);
    for (uint8_t& byte : bytes) byte = table[byte];
    Four<U4> values;
    std::memcpy(&values, bytes, sizeof bytes);
    return values;
  }
  /// Widened; 8-bit codes lose their bias, so that a product and the sum of two fit int16: at most 2 * 128 * 127.
  template <int kBits>
  static Four<BytePairs> weights(const Four<U4>& codes) {
    if constexpr (kBits < 8) {
      return each([](U4 v) { return BytePairs{bits<S8>(v & 0x00ff00ffu), bits<S8>(v >> 8 & 0x00ff00ffu)}; }, codes);
    } else {
      return each([](U4 v) { return spread(bits<S8>(v ^ 0x80808080u)); }, codes);
    }
  }
  static BytePairs broadcast_quad(int32_t quad) { return spread(bits<S8>(I4{} + quad)); }
  /// Four int8 of each lane, widened.
  static BytePairs spread(S8 bytes) { return {bytes << 8 >> 8, bytes >> 8}; }

  /// Two int16 per row for as many quads as cannot overflow them (the largest sums are 8 * 2 * 15 * 127, 4 * 2 * 31 * 127 and
  /// 2 * 2 * 63 * 127), then int32.
  template <int kBits>
  struct Sums {
    static constexpr int kFold = kBits <= 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
    Four<S8> sum;
    Four<I4> total;
    void start(int32_t offset) {
      sum = Four<S8>{};
      const I4 v = I4{} + (kBits < 8 ? offset : 0);
      total = {v, v, v, v};
    }
    void add(const Four<BytePairs>& weights, const BytePairs& x) {
      sum = each([&](S8 s, const BytePairs& w) { return s + w.even * x.even + w.odd * x.odd; }, sum, weights);
    }
    void fold() {
      total = each([](I4 t, S8 s) { return t + sum_pairs(s); }, total, sum);
      sum = Four<S8>{};
    }
    Floats finish(int32_t /*offset, there from the start*/) const {
      return each([](I4 t) { return __builtin_convertvector(t, F4); }, total);
    }
  };

  /// f of each of 16 bytes.
  template <class F>
  static Floats from_bytes(const std::byte* from, F f) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = f(static_cast<uint8_t>(from[i]));
    Floats floats;
    std::memcpy(&floats, values, sizeof values);
    return floats;
  }
  static Floats load_i8(const std::byte* from) {
    return from_bytes(from, [](uint8_t byte) { return static_cast<float>(static_cast<int8_t>(byte)); });
  }
  static Floats load_low_nibbles(const std::byte* from) {
    return from_bytes(from, [](uint8_t byte) { return static_cast<float>(byte & 15); });
  }
  static Floats load_high_nibbles(const std::byte* from) {
    return from_bytes(from, [](uint8_t byte) { return static_cast<float>(byte >> 4); });
  }
  /// 2^(e - 128), zero for e < 2.
  static Floats load_exponents(const std::byte* from) {
    return from_bytes(from, [](uint8_t e) { return std::bit_cast<float>((e > 1 ? e - 1u : 0u) << 23); });
  }

  struct Pair {
    Floats first, second;
  };
  /// The first and second bytes of 16 pairs: 2^-8 of their value.
  static Pair load_e4m3_pairs(const std::byte* from) {
    uint8_t codes[32];
    std::memcpy(codes, from, sizeof codes);
    const auto widen = [&](int at) {
      const auto four = [&](int i) { return widen_e4m3(U4{codes[i], codes[i + 2], codes[i + 4], codes[i + 6]}); };
      return Floats{four(at), four(at + 8), four(at + 16), four(at + 24)};
    };
    return {widen(0), widen(1)};
  }
  /// Without a subnormal on the way, which is slow.
  static F4 widen_e4m3(U4 codes) {
    const U4 magnitude = codes & 0x7fu;
    const U4 normal = (magnitude << 20) + 0x38000000u;
    const U4 tiny = bits<U4>(__builtin_convertvector(bits<I4>(magnitude), F4) * 0x1p-17f);
    const U4 is_tiny = bits<U4>(magnitude < 8), is_nan = bits<U4>(magnitude == 0x7f);
    return bits<F4>((codes & 0x80u) << 24 | (is_tiny & tiny) | (~is_tiny & normal) | (is_nan & 0x7fc00000u));
  }

  static BlockSize measure(const float* x) { return measure_plainly<Portable>(x); }
  static int find(const float* x, uint32_t magnitude) { return find_plainly<Portable>(x, magnitude); }
  static void quantise_block(const float* x, uint32_t largest, QuantBlock& out, QuantBytes* low) {
    quantise_plainly<Portable>(x, largest, out, low);
  }
};

}  // namespace

const LinearKernels& linear_kernels_portable() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Portable>(Isa::portable);
  return kKernels;
}

}  // namespace pagoda::cpu

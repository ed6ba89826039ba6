// Tile kernels for any little-endian CPU, in the compiler's vector extension: a 64-byte vector is a panel's 16 columns and is
// lowered to whatever the baseline has (SSE2, NEON, scalars). Without a guaranteed fused multiply-add its sums differ in the
// last bits from the others.
#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors are passed only between functions of this file

#include <cstring>

#include "backend/cpu/linear_tile.h"

namespace pagoda::cpu {
namespace {

struct Portable {
  static constexpr int kTileRows = 4;
  static constexpr bool kRoundsToBf16 = false;
  typedef float Floats __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64)));
  typedef uint32_t Words __attribute__((vector_size(64)));
  typedef int16_t Shorts __attribute__((vector_size(64)));
  struct Quads {
    Shorts even, odd;  // bytes 0 and 2, bytes 1 and 3 of each quad
  };
  using Bytes = Quads;
  using Sum4 = Shorts;  // two int16 per column: 8 quads of nibbles times int8 add up to at most 8 * 2 * 15 * 127 = 30480
  using Sum8 = Ints;

  template <class To, class From>
  [[gnu::always_inline]] static To cast(const From& from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
  }
  template <class V>
  [[gnu::always_inline]] static V load(const std::byte* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }

  static Floats zero() { return Floats{}; }
  static Floats broadcast(float value) { return Floats{} + value; }
  static Floats fma(const Floats& a, const Floats& b, const Floats& c) { return a * b + c; }
  static Floats mul(const Floats& a, const Floats& b) { return a * b; }
  static Floats add(const Floats& a, const Floats& b) { return a + b; }
  static Floats load_f32(const std::byte* from) { return load<Floats>(from); }
  /// f16_to_float of core/dtype.h without branches: exponent rebias by a multiplication, infinities and NaNs put right after
  /// it.
  static Floats load_f16(const std::byte* from) {
    uint16_t half[16];
    std::memcpy(half, from, sizeof half);
    Words bits;
    for (int i = 0; i < 16; ++i) bits[i] = half[i];
    const Words magnitude = bits & 0x7fffu;
    const Words finite = cast<Words>(cast<Floats>(magnitude << 13) * 0x1p112f);
    const Words special = (magnitude << 13) | 0x7f800000u;
    const Words is_special = cast<Words>(cast<Ints>(magnitude) >= 0x7c00);
    return cast<Floats>((bits & 0x8000u) << 16 | (is_special & special) | (~is_special & finite));
  }
  static Floats load_bf16_first(const std::byte* from) { return cast<Floats>(load<Words>(from) << 16); }
  static Floats load_bf16_second(const std::byte* from) { return cast<Floats>(load<Words>(from) & 0xffff0000u); }
  static Floats load_part(const float* from, int width) {
    Floats v{};
    std::memcpy(&v, from, static_cast<size_t>(width) * sizeof(float));
    return v;
  }
  static void store(float* to, const Floats& value, int width) {
    std::memcpy(to, &value, static_cast<size_t>(width) * sizeof(float));
  }

  struct Pairs {
    Shorts even, odd;
  };
  /// The input's quad in every column, spread over int16 like the weights.
  static Pairs spread(int32_t x) {
    const Ints quad = Ints{} + x;
    const Shorts even = cast<Shorts>(quad) << 8 >> 8;
    return {even, cast<Shorts>(quad) >> 8};
  }
  static Quads load_bytes(const std::byte* from) {
    const Words v = load<Words>(from);
    return {cast<Shorts>(v & 0x00ff00ffu), cast<Shorts>(v >> 8 & 0x00ff00ffu)};
  }
  static Quads load_quads(const std::byte* from) { return load_bytes(from); }
  static Quads low_nibbles(const Quads& v) { return {v.even & 15, v.odd & 15}; }
  static Quads high_nibbles(const Quads& v) { return {v.even >> 4, v.odd >> 4}; }
  static Ints sum_pairs(const Shorts& v) {
    const Ints pairs = cast<Ints>(v);
    return (pairs >> 16) + (cast<Ints>(cast<Words>(v) << 16) >> 16);
  }
  static Sum4 start4(int32_t /*offset, added at the end*/) { return Sum4{}; }
  static Sum4 dot4(const Sum4& sum, const Quads& w, int32_t x) {
    const Pairs pairs = spread(x);
    return sum + w.even * pairs.even + w.odd * pairs.odd;
  }
  static Floats finish4(const Sum4& sum, int32_t offset) { return __builtin_convertvector(sum_pairs(sum) + offset, Floats); }
  // One product, at most 255 * 127, fits int16; their sum does not.
  static Sum8 start8(int32_t offset) { return Sum8{} + offset; }
  static Sum8 dot8(const Sum8& sum, const Bytes& w, int32_t x) {
    const Pairs pairs = spread(x);
    return sum + sum_pairs(w.even * pairs.even) + sum_pairs(w.odd * pairs.odd);
  }
  static Floats finish8(const Sum8& sum) { return __builtin_convertvector(sum, Floats); }

  static void quantise_block(const float* x, QuantBlock& out) { quantise_plainly<Portable>(x, out); }
};

}  // namespace

const LinearKernels& linear_kernels_portable() {
  static constexpr LinearKernels kKernels = make_linear_kernels<Portable>(Isa::portable);
  return kKernels;
}

}  // namespace pagoda::cpu

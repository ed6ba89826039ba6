// Weights of a panel as bf16 numbers: what unpack_row gives, rounded to the nearest, ties away from zero. Blocks
// become tiles, or are multiplied with one row as they are unpacked.
#pragma once

#include "backend/cpu/linear_table.h"

namespace pagoda::cpu {
namespace {

constexpr int kPairBytes = 2048;  ///< 32 values of two panels as bf16
/// How far ahead of its use a panel is fetched that is read from end to end.
constexpr size_t kLoneAheadBytes = 4096;

/// What the codes of a format stand for, by the low four or five bits of the lane that they are looked up with.
struct MeaningTable {
  alignas(64) float values[32];
};
constexpr MeaningTable meaning_table(const PanelLayout& layout) {
  MeaningTable table{};
  for (int i = 0; i < 32; ++i) {
    const int code = i & ((1 << (layout.low_bits + layout.high_bits)) - 1);
    table.values[i] = static_cast<float>(layout.codes == CodeKind::iq4     ? kIq4Values[code]
                                         : layout.codes == CodeKind::mxfp4 ? kMxfp4Values[code]
                                                                           : code - layout.bias);
  }
  return table;
}

/// Unpacks blocks of one format.
template <class Simd, WeightFormat kFormat>
struct BlockUnpacker {
  using Kernel = BlockKernel<Simd, kFormat>;
  using Floats = typename Simd::Floats;
  static constexpr PanelLayout kLayout = Kernel::kLayout;
  static constexpr MeaningTable kTable = meaning_table(kLayout);
  /// Codes are looked up where they stand in their plane, or joined from two planes, if they are not too many to look up.
  static constexpr bool kInPlace = kLayout.high_bits == 0 && kLayout.low_bits <= 4;
  static constexpr bool kLooksUp = kLayout.low_bits + kLayout.high_bits <= 5;
  /// Bytes become floats as the mantissa of 1 + code / 2^15, which a scale of 11 bits takes exactly to where it belongs.
  static constexpr bool kByMantissa = kFormat == WeightFormat::q8_0;

  struct Scales {
    Floats scale, offset;
  };
  template <int kGroup>
  [[gnu::always_inline]] static Scales load_scales(const std::byte* at, const typename Kernel::Outer& outer) {
    const Floats scale = Kernel::template load_scale<kGroup>(at, outer);
    if constexpr (kLayout.scales == ScaleKind::single_zero) return {scale, Simd::load_i8(at + 64)};
    if constexpr (Kernel::kHasMin) return {scale, Kernel::template load_min<kGroup>(at, outer)};
    if constexpr (kLooksUp) return {scale, Simd::zero()};
    constexpr float kOne = kByMantissa ? 0x1p15f : 0;  // exact products: f16 times 9 bits, and a power of two
    return {kByMantissa ? Simd::mul(scale, Simd::broadcast(kOne)) : scale,
            Simd::mul(scale, Simd::broadcast(-kOne - float{kLayout.bias}))};
  }

  /// Value 4 kQuad + kByte of each column, rounded once, as unpack_row gives it.
  template <int kQuad, int kByte, class Codes>
  [[gnu::always_inline]] static Floats weight(Codes codes, const Scales& scales) {
    if constexpr (kByMantissa) return Simd::fma(scales.scale, Simd::template byte_mantissa<kByte>(codes), scales.offset);
    if constexpr (!kLooksUp) return Simd::fma(scales.scale, Simd::template byte<kByte>(codes), scales.offset);
    constexpr int kShift = 8 * kByte + (kInPlace ? kQuad / kLayout.low_bits * kLayout.low_bits : 0);
    const Floats value = Simd::template look_up_floats<kInPlace ? 16 : 32>(kTable.values, Simd::template shift<kShift>(codes));
    if constexpr (Kernel::kHasMin) return Simd::fma(scales.scale, value, scales.offset);
    if constexpr (kLayout.scales == ScaleKind::single_zero) {
      return Simd::mul(scales.scale, Simd::fma(Simd::broadcast(-1.0f), scales.offset, value));
    }
    return Simd::mul(scales.scale, value);
  }

  template <int kQuad>
  [[gnu::always_inline]] static auto load_quad(const std::byte* codes) {
    if constexpr (kInPlace) return Simd::load_raw(codes + kQuad % kLayout.low_bits * 64);
    if constexpr (!kInPlace) return Kernel::template load_codes<kQuad>(codes);
  }

  template <int kQuad, int kEnd, class Body>
  [[gnu::always_inline]] static void unpack_floats(const std::byte* codes, const Scales& scales, const Body& body) {
    if constexpr (kQuad < kEnd) {
      const auto quad = load_quad<kQuad>(codes);
      body(4 * kQuad, weight<kQuad, 0>(quad, scales), weight<kQuad, 1>(quad, scales));
      body(4 * kQuad + 2, weight<kQuad, 2>(quad, scales), weight<kQuad, 3>(quad, scales));
      unpack_floats<kQuad + 1, kEnd>(codes, scales, body);
    }
  }

  /// Calls body(first value of a pair, its two weights) for the pairs of a block in order.
  template <class Body>
  [[gnu::always_inline]] static void for_pairs(const std::byte* block, const typename Kernel::Outer& outer, const Body& body) {
    const std::byte* at = block + kLayout.code_bytes();
    constexpr int kQuads = 8 / kLayout.groups;
    unpack_floats<0, kQuads>(block, load_scales<0>(at, outer), body);
    if constexpr (kLayout.groups == 2) unpack_floats<4, 8>(block, load_scales<1>(at, outer), body);
  }

  /// Calls body(b, block, outer fields) for blocks [begin, end) of a panel, and fetches what lies `ahead` bytes behind them.
  template <class Body>
  [[gnu::always_inline]] static void for_blocks(const std::byte* panel, int64_t begin, int64_t end, size_t ahead,
                                                const Body& body) {
    constexpr int64_t kStep = kLayout.outer_bytes() + kLayout.blocks * kLayout.block_bytes();
    for (int64_t b = begin; b < end; ++b) {
      const std::byte* super = panel + b / kLayout.blocks * kStep;
      const std::byte* block = super + kLayout.outer_bytes() + b % kLayout.blocks * kLayout.block_bytes();
      for (int i = 0; i < kLayout.block_bytes(); i += 64) __builtin_prefetch(block + ahead + i);
      typename Kernel::Outer outer{};
      if constexpr (kLayout.outer_bytes() > 0) outer = Kernel::load_outer(super);
      body(b, block, outer);
    }
  }

  /// Blocks [begin, end) of a panel to tiles [16][16][2] kPairBytes apart; fetches those `ahead` bytes behind them.
  static void unpack(const std::byte* panel, int64_t begin, int64_t end, size_t ahead, std::byte* to) {
    for_blocks(panel, begin, end, ahead, [&](int64_t b, const std::byte* block, const typename Kernel::Outer& outer) {
      std::byte* tile = to + (b - begin) * kPairBytes;
      for_pairs(block, outer, [tile](int value, Floats first, Floats second) __attribute__((always_inline)) {
        Simd::store_pairs(tile + 32 * value, first, second);
      });
    });
  }
};

/// bf16 panels are tiles as they are, but for the last columns of a K that is no multiple of 32.
template <class Simd>
struct BlockUnpacker<Simd, WeightFormat::bf16> {};

/// One row times a panel without tiles, whose latency it would wait for: the same chains of fused multiply-adds, and so the
/// same bits.
template <class Simd, WeightFormat kFormat>
struct LoneProduct {
  using Floats = typename Simd::Floats;
  using Unpacker = BlockUnpacker<Simd, kFormat>;
  using Outer = typename Unpacker::Kernel::Outer;

  /// Adds the products of the pairs of quads [kQuad, kEnd) of a block.
  template <int kQuad, int kEnd>
  [[gnu::always_inline]] static void add_quads(const std::byte* codes, const typename Unpacker::Scales& scales, const float* x,
                                               Floats& even, Floats& odd) {
    if constexpr (kQuad < kEnd) {
      const auto quad = Unpacker::template load_quad<kQuad>(codes);
      const float* at = x + 4 * kQuad;
      even = Simd::fma(rounded<kQuad, 0>(quad, scales), Simd::broadcast(at[0]), even);
      odd = Simd::fma(rounded<kQuad, 1>(quad, scales), Simd::broadcast(at[1]), odd);
      even = Simd::fma(rounded<kQuad, 2>(quad, scales), Simd::broadcast(at[2]), even);
      odd = Simd::fma(rounded<kQuad, 3>(quad, scales), Simd::broadcast(at[3]), odd);
      add_quads<kQuad + 1, kEnd>(codes, scales, x, even, odd);
    }
  }
  template <int kQuad, int kByte, class Codes>
  [[gnu::always_inline]] static Floats rounded(Codes quad, const typename Unpacker::Scales& scales) {
    return Simd::round_to_bf16(Unpacker::template weight<kQuad, kByte>(quad, scales));
  }

  [[gnu::always_inline]] static Floats add_block(const std::byte* block, const Outer& outer, const float* x, Floats sum) {
    constexpr PanelLayout kLayout = Unpacker::kLayout;
    constexpr int kQuads = 8 / kLayout.groups;
    const std::byte* at = block + kLayout.code_bytes();
    Floats even = Simd::zero(), odd = Simd::zero();
    add_quads<0, kQuads>(block, Unpacker::template load_scales<0>(at, outer), x, even, odd);
    if constexpr (kLayout.groups == 2) add_quads<4, 8>(block, Unpacker::template load_scales<1>(at, outer), x, even, odd);
    return Simd::add(sum, Simd::add(even, odd));
  }

  /// Of a panel with x[num_blocks * 32], bf16 numbers as floats.
  [[gnu::noinline]] static Floats multiply(const std::byte* panel, int64_t num_blocks, const float* x) {
    Floats sum = Simd::zero();
    Unpacker::for_blocks(panel, 0, num_blocks, kLoneAheadBytes,
                         [&](int64_t b, const std::byte* block, const Outer& outer)
                             __attribute__((always_inline)) { sum = add_block(block, outer, x + b * 32, sum); });
    return sum;
  }
};

}  // namespace
}  // namespace pagoda::cpu

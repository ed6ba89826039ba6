// The 128-bit hash. The state is two 64-bit words; every 16 input bytes pass through `absorb`, which is a bijection of the
// state for a fixed input and of the input for a fixed state, so no two inputs that differ in one chunk can collide.
#include "core/hash.h"

#include <bit>
#include <cstring>

namespace pagoda {
namespace {

static_assert(std::endian::native == std::endian::little, "hashes are defined on little-endian words");

// Fractional parts of the square roots of 2, 3, 5 and 7: arbitrary bits; the multipliers are odd.
constexpr uint64_t kSeedHi = 0x6a09e667f3bcc908u;
constexpr uint64_t kSeedLo = 0xbb67ae8584caa73bu;
constexpr uint64_t kMulA = 0x3c6ef372fe94f82bu;
constexpr uint64_t kMulB = 0xa54ff53a5f1d36f1u;
constexpr size_t kChunk = 16;

/// An invertible scrambler of one word: xor-shifts spread high bits down, the odd multiplications spread low bits up.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 32)) * kMulA;
  x = (x ^ (x >> 29)) * kMulB;
  return x ^ (x >> 32);
}

struct State {
  uint64_t a;
  uint64_t b;

  void absorb(uint64_t x, uint64_t y) {
    a = mix(a ^ x) + b;
    b = mix(b ^ y) + std::rotl(a, 27);
  }
};

}  // namespace

Hash128 hash_bytes(const void* data, size_t size, Hash128 seed) {
  State state{seed.hi ^ kSeedHi, seed.lo ^ kSeedLo};
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint64_t words[2];
  size_t left = size;
  for (; left >= kChunk; left -= kChunk, bytes += kChunk) {
    std::memcpy(words, bytes, kChunk);
    state.absorb(words[0], words[1]);
  }
  if (left > 0) {
    words[0] = words[1] = 0;
    std::memcpy(words, bytes, left);
    state.absorb(words[0], words[1]);
  }
  state.absorb(size, kMulA);  // the size tells a zero-padded tail from real zeros
  state.absorb(kMulB, size);
  return {state.a, state.b};
}

}  // namespace pagoda

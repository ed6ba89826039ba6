// Philox4x32-10, a counter-based random generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A draw is a pure function of (key, counter): the samplers key it by the request's seed and count by the token's position, so
// the same request gives the same numbers alone, in a batch, or after a preemption. Owns nothing; the CUDA twin must agree bit
// for bit.
#pragma once

#include <array>
#include <cstdint>

namespace pagoda {

/// The upper 64 bits of the 128-bit product a * b. With a uniform `a` it maps to a uniform integer in [0, b).
constexpr uint64_t mul_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

/// Ten rounds of Philox4x32: four 32-bit random words for a 128-bit counter under a 64-bit key. Word 0 is the lowest.
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// 64 random bits for (key, counter): words 0 (low half) and 1 (high half) of Philox4x32-10 with counter words
/// {low(counter), high(counter), 0, 0} and key words {low(key), high(key)}.
constexpr uint64_t philox(uint64_t key, uint64_t counter) {
  const auto words = philox4x32({static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
                                {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0});
  return uint64_t{words[1]} << 32 | words[0];
}

}  // namespace pagoda

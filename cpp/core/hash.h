// A 128-bit content hash: fast, well mixed, the same on every little-endian machine. Not cryptographic: who must be safe
// against chosen collisions compares the content too (the prefix cache compares tokens).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace pagoda {

struct Hash128 {
  uint64_t hi = 0;
  uint64_t lo = 0;
  bool operator==(const Hash128&) const = default;
};

/// Hash of `size` bytes under a seed. Different sizes with the same leading bytes hash differently, so hashes can be chained by
/// passing one as the next one's seed. `data` may be null when `size` is 0 and needs no alignment.
Hash128 hash_bytes(const void* data, size_t size, Hash128 seed);

/// Hash of a run of tokens that follows the content `parent` stands for.
inline Hash128 hash_tokens(Hash128 parent, std::span<const int32_t> tokens) {
  return hash_bytes(tokens.data(), tokens.size_bytes(), parent);
}

}  // namespace pagoda

template <>
struct std::hash<pagoda::Hash128> {
  size_t operator()(const pagoda::Hash128& value) const noexcept { return value.lo; }
};

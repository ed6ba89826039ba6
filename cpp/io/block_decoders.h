// One function per quantised format: a stored block to floats. Called by io/dequantise only. The float operations and their
// order are those of the `gguf` package, so that results agree with it to the bit.
#pragma once

#include <cstddef>
#include <cstring>

#include "core/dtype.h"

namespace pagoda {

/// Decodes the block at `block` (no alignment) to out[block_values of the format].
using BlockDecoder = void (*)(const std::byte* block, float* out);

// Blocks of 32 values: block_decoders_32.cc.
void decode_q8_0(const std::byte* block, float* out);
void decode_q4_0(const std::byte* block, float* out);
void decode_q4_1(const std::byte* block, float* out);
void decode_q5_0(const std::byte* block, float* out);
void decode_q5_1(const std::byte* block, float* out);
void decode_iq4_nl(const std::byte* block, float* out);
void decode_mxfp4(const std::byte* block, float* out);
void decode_f8_e4m3(const std::byte* block, float* out);
void decode_int8(const std::byte* block, float* out);
void decode_int4(const std::byte* block, float* out);

// Blocks of 256 values: block_decoders_256.cc.
void decode_q2_k(const std::byte* block, float* out);
void decode_q3_k(const std::byte* block, float* out);
void decode_q4_k(const std::byte* block, float* out);
void decode_q5_k(const std::byte* block, float* out);
void decode_q6_k(const std::byte* block, float* out);
void decode_iq4_xs(const std::byte* block, float* out);

/// A number from bytes that are aligned to nothing.
template <class T>
T load_bytes(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline float load_f16(const std::byte* from) { return f16_to_float(load_bytes<uint16_t>(from)); }

}  // namespace pagoda

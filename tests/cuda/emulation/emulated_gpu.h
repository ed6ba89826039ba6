// The meaning of the instructions in cuda/gpu.h: copies that happen at the wait or at once, matrix fragments by lane, 16-bit
// floats.
#pragma once

#include <cstdint>

#include "collective.h"
#include "fiber.h"

namespace emu {

float bf16_value(uint16_t bits);
float f16_value(uint16_t bits);
uint16_t bf16_bits(float value);
uint16_t f16_bits(float value);

/// Asks for a copy of `bytes`, then `zeros` cleared bytes. Addresses must be multiples of bytes + zeros. The copy happens now
/// or when it is waited for, as set_schedule says.
void cp_async(void* shared, const void* global, unsigned bytes, unsigned zeros, const Site& site);
void cp_async_commit();
/// Carries out all groups but the `newest`.
void cp_async_wait(int newest);

void ldmatrix(uint32_t (&r)[4], const void* row, bool transposed, const Site& site);
uint32_t transpose_8x8(uint32_t elements, const Site& site);
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*value)(uint16_t), const Site& site);

}  // namespace emu

// How finely the inputs of products with quantised weights are rounded. Chosen once per backend, by an option.
#pragma once

#include <cstdint>
#include <string_view>

#include "backend/cpu/isa.h"

namespace pagoda::cpu {

/// What each value of an input row becomes, with one scale for each block of 32 values.
enum class InputPrecision : uint8_t {
  int8,   ///< 8 bits
  mixed,  ///< 8 bits, but for values that dwarf the others of their block, and would leave few bits to them: f32
  bf16,   ///< bf16, and so the weights: the fastest for many rows with AMX, and for few the slowest; needs isa amx
  int16,  ///< 15 bits, for about twice the work: within some 1e-4 of the product with the input itself
};

/// "int8", "mixed", "bf16", "int16", or "auto": bf16 with AMX, which is behind in nothing but a lone stream, else mixed. Throws
/// InvalidArgument for another word.
InputPrecision parse_input_precision(std::string_view word, Isa isa);

}  // namespace pagoda::cpu

// The instruction sets that the CPU kernels are compiled for, and which of them this machine can run.
// Every kernel family has one table of functions per Isa; CpuBackend picks the tables once, when it is made.
#pragma once

#include <cstdint>
#include <string_view>

namespace pagoda::cpu {

/// portable: the compiler's baseline. avx2: AVX2, FMA, F16C, BMI2. avx2_vnni: also AVX-VNNI. avx512: those of avx2 and AVX-512
/// F, BW, VL, DQ, VNNI, BF16. amx: those of avx512 and AMX tiles with BF16.
enum class Isa : uint8_t { portable, avx2, avx2_vnni, avx512, amx };

/// All of them, from the narrowest on.
inline constexpr Isa kIsas[] = {Isa::portable, Isa::avx2, Isa::avx2_vnni, Isa::avx512, Isa::amx};

/// Whether this machine and its operating system can run code compiled for `isa`.
bool isa_supported(Isa isa);

/// The widest supported instruction set.
Isa detect_isa();

/// "auto" is detect_isa(). Throws InvalidArgument for an unknown name or an instruction set that this machine lacks.
Isa parse_isa(std::string_view name);

/// "portable", "avx2", "avx2_vnni", "avx512" or "amx".
const char* isa_name(Isa isa);

}  // namespace pagoda::cpu

// Detection of instruction sets through the compiler's cpuid support, which also asks whether the OS saves the registers.
#include "backend/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>

#include "core/check.h"

namespace pagoda::cpu {

#if defined(__x86_64__)
namespace {

/// The compilers' own support does not know the name everywhere. Its registers are AVX's, which "avx2" asked of the system.
bool has_avx_vnni() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
}

}  // namespace

bool isa_supported(Isa isa) {
  __builtin_cpu_init();
  // All that the kernel files are compiled with (cmake/PagodaFolder.cmake) must be there.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi2");
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx2_vnni:
      return avx2 && has_avx_vnni();
    case Isa::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
             __builtin_cpu_supports("avx512bf16");
  }
  return false;
}
#else
bool isa_supported(Isa isa) { return isa == Isa::portable; }
#endif

Isa detect_isa() { return *std::find_if(std::rbegin(kIsas), std::rend(kIsas), isa_supported); }

Isa parse_isa(std::string_view name) {
  if (name == "auto") return detect_isa();
  for (const Isa isa : kIsas) {
    if (name != isa_name(isa)) continue;
    require(isa_supported(isa), "isa ", name,
            " is not supported by this machine; the widest that is: ", isa_name(detect_isa()));
    return isa;
  }
  throw InvalidArgument(str("isa must be one of auto, avx512, avx2_vnni, avx2, portable, got ", name));
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx2_vnni:
      return "avx2_vnni";
    case Isa::avx512:
      return "avx512";
  }
  return "?";
}

}  // namespace pagoda::cpu

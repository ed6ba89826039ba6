// Detection of instruction sets through the compiler's cpuid support, which also asks whether the OS saves the registers.
#include "backend/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
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

/// Tiles of bf16 numbers, in the processor and granted: Linux hands their registers, 8 KiB for each thread, out on request, to
/// all threads of the process for good.
bool has_amx() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned int kBf16 = 1u << 22, kTiles = 1u << 24;
  if ((edx & kBf16) == 0 || (edx & kTiles) == 0) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace

bool isa_supported(Isa isa) {
  __builtin_cpu_init();
  // All that the kernel files are compiled with (cmake/PagodaFolder.cmake) must be there.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx2_vnni:
      return avx2 && has_avx_vnni();
    case Isa::avx512:
      return avx512;
    case Isa::amx:
      return avx512 && has_amx();
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
  throw InvalidArgument(str("isa must be one of auto, amx, avx512, avx2_vnni, avx2, portable, got ", name));
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
    case Isa::amx:
      return "amx";
  }
  return "?";
}

}  // namespace pagoda::cpu

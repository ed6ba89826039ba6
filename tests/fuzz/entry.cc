// libFuzzer's entry point. Compiled once per fuzzer, with PAGODA_FUZZ_TARGET naming the function of targets.h.
#include <cstdint>

#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pagoda::PAGODA_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}

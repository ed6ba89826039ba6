// Stands in for NVIDIA's header of this name when g++ compiles cuda/: the device language, the runtime's calls and the device
// functions, all emulated. Found because the emulation's folder is first on the include path; nvcc never sees it.
#pragma once

#include "collective.h"
#include "device_language.h"
#include "fiber.h"
#include "runtime.h"
#include "vector_types.h"

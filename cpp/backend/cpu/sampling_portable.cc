// Sampling passes compiled for portable.
#define PAGODA_SAMPLING_TABLE sampling_kernels_portable
#include "backend/cpu/sampling_passes.h"

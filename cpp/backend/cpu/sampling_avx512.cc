// Sampling passes compiled for avx512.
#define PAGODA_SAMPLING_TABLE sampling_kernels_avx512
#include "backend/cpu/sampling_passes.h"

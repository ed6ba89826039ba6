// Sampling passes compiled for avx2.
#define PAGODA_SAMPLING_TABLE sampling_kernels_avx2
#include "backend/cpu/sampling_passes.h"

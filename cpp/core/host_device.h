// Marks functions that the CPU and a GPU's kernels share, so that both compute the same bits from one definition.
#pragma once

#if defined(__CUDACC__)
#define PAGODA_HOST_DEVICE __host__ __device__
#else
#define PAGODA_HOST_DEVICE
#endif

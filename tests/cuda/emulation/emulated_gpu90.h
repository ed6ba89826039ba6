// The meaning of the instructions in cuda/gpu90.h: barriers that count arrivals and bytes, copies and products that happen some
// time after they were asked for, products not before their warp waits. What Hopper leaves undefined is a fault.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "collective.h"
#include "fiber.h"

namespace emu {

void mbarrier_init(uint64_t* barrier, unsigned arrivals, const Site& site);
void mbarrier_fence_init();
void mbarrier_arrive(uint64_t* barrier, const Site& site);
/// Arrives, and the phase ends only after `bytes` more have come.
void mbarrier_expect(uint64_t* barrier, unsigned bytes, const Site& site);
/// Waits until the barrier is not in a phase of this parity.
void mbarrier_wait(uint64_t* barrier, unsigned parity, const Site& site);

/// Asks for the box at `at` [rank].
void tma_load(void* shared, const CUtensorMap& map, uint64_t* barrier, const int* at, int rank, const Site& site);

/// Descriptor of a matrix in rows of 128 swizzled bytes; `panel_bytes` from 64 columns to the next.
uint64_t matrix_descriptor(const void* shared, unsigned panel_bytes, const Site& site);
void wgmma_fence();
void wgmma(const PendingProduct& product);
void wgmma_commit();
/// Carries out all groups of this warp but the `newest`.
void wgmma_wait(int newest, const Site& site);

void set_registers(unsigned count, const Site& site);
bool elect_one(const Site& site);

}  // namespace emu
